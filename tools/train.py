#!/usr/bin/env python
"""Train a model of an mmseg, mmdet or mmpretrain config.

    python tools/train.py configs/segvit/CONFIG.py
    python tools/train.py CONFIG --resume                       # go on from the newest checkpoint
    bash tools/dist_train.sh CONFIG 8                           # on 8 GPUs

Before the first iteration it checks the config, the datasets and the checkpoints, and logs what of the pretrained
weights reached the model and whether the learning rate belongs to the total batch size.
"""

import argparse
from collections.abc import Sequence

from mmvit_ext.cli.arguments import add_common_arguments
from mmvit_ext.cli.command import run_command
from mmvit_ext.cli.process_end import end_process
from mmvit_ext.engine.training import run_train


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Train a model of an mmseg, mmdet or mmpretrain config.')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, weights, optimiser and iteration; without a value from '
        'the newest one in --work-dir that can be loaded',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (float16 on a GPU, bfloat16 on a CPU)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by (processes x batch size) / auto_scale_lr.base_batch_size',
    )
    parser.add_argument('--compile', action='store_true', help='compile the training step with torch.compile')
    parser.add_argument(
        '--skip-nonfinite',
        type=int,
        metavar='N',
        help='leave out up to N updates with losses or gradients that are not finite instead of stopping at the first',
    )
    parser.add_argument(
        '--skip-bad-samples',
        type=float,
        metavar='N',
        help='leave out up to N training samples that cannot be read (below 1: a fraction) instead of stopping at the '
        'first',
    )
    parser.add_argument('--seed', type=int, help='seed of every random generator')
    add_common_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    run_train(build_parser().parse_args(argv))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='train', after_interrupt='--resume goes on from the last checkpoint')


if __name__ == '__main__':
    end_process(main)
