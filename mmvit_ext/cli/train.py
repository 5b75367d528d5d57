"""Train a model of an mmseg, mmdet or mmpretrain config.

    mmvit train configs/segvit/CONFIG.py
    mmvit train CONFIG --resume                       # continue from the newest checkpoint
    bash tools/dist_train.sh CONFIG 8                 # on 8 GPUs

Before the first iteration it checks the config, the datasets and the checkpoints, and logs which of the pretrained
weights reached the model and whether the learning rate fits the total batch size.
"""

from mmvit_ext.cli.arguments import RUN_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.engine.training import train


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config')
    resumed = 'continue from a checkpoint, without a value from the newest one in --work-dir that can be loaded'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resumed)
    rule = 'scale the learning rate by (processes x batch size) / auto_scale_lr.base_batch_size'
    parser.add_argument('--auto-scale-lr', action='store_true', help=rule)
    parser.add_argument('--compile', action='store_true', help='compile the training step with torch.compile')
    updates = 'leave out up to N updates with losses or gradients that are not finite; otherwise the first is an error'
    parser.add_argument('--skip-nonfinite', type=int, metavar='N', help=updates)
    samples = 'leave out up to N samples that cannot be read (below 1: a fraction); otherwise the first is an error'
    parser.add_argument('--skip-bad-samples', type=float, metavar='N', help=samples)
    add_shared(parser, '--amp', '--seed', *RUN_ARGUMENTS)


def run(args: Namespace) -> None:
    train(**keywords(args))
