"""Train a model on a folder of images, or as an mmseg, mmdet or mmpretrain config says.

    mmvit train photos                                # images with masks, boxes or classes in any usual layout
    mmvit train photos --model segvit_dinov2-s --epochs 30
    mmvit train photos --dry-run                      # only write the config
    mmvit train configs/segvit/CONFIG.py
    mmvit train CONFIG --resume                       # continue from the newest checkpoint
    bash tools/dist_train.sh CONFIG 8                 # on 8 GPUs

Of a folder it says what it understood and where it was not sure, writes lists and a config that can be edited into
`setup` in the work directory, and trains it. Before the first iteration it checks the config, the datasets and the
checkpoints, and logs which of the pretrained weights reached the model and whether the learning rate fits the total
batch size.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from mmvit_ext.cli.arguments import RUN_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.engine.training import train
from mmvit_ext.errors import UserError, printable, say

FOLDER_OPTIONS = ('model', 'task', 'epochs', 'batch_size', 'size', 'checkpoint', 'val_share', 'dry_run')


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', metavar='FOLDER|CONFIG', help='folder of images and annotations, or config file')
    folder = parser.add_argument_group('of a folder')
    folder.add_argument('--model', metavar='NAME', help='`mmvit models` lists the names (default: by the task)')
    tasks = 'segmentation, detection, instance segmentation or classification (default: recognised)'
    folder.add_argument('--task', choices=('seg', 'det', 'inst', 'cls'), help=tasks)
    folder.add_argument('--epochs', type=int, metavar='N', help='passes over the training images')
    folder.add_argument('--batch-size', type=int, metavar='N', help='images of a step')
    folder.add_argument('--size', type=int, metavar='PIXELS', help='shorter side of a training image')
    weights = 'weights to begin with: a file, timm (those that timm publishes) or none (default: timm, if reachable)'
    folder.add_argument('--checkpoint', metavar='FILE|timm|none', help=weights)
    share = 'share of the images for validation where the folder has no split (default: 0.2)'
    folder.add_argument('--val-share', type=float, metavar='SHARE', help=share)
    folder.add_argument('--dry-run', action='store_true', default=None, help='write the config and stop')
    resumed = 'continue from a checkpoint, without a value from the newest one in --work-dir that can be loaded'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resumed)
    rule = 'scale the learning rate by (processes x batch size) / auto_scale_lr.base_batch_size'
    parser.add_argument('--auto-scale-lr', action='store_true', help=rule)
    add_shared(parser, '--compile', help='compile the training step with torch.compile')
    add_shared(parser, '--compile-blocks', '--no-tf32')
    updates = 'leave out up to N updates with losses or gradients that are not finite; otherwise the first is an error'
    parser.add_argument('--skip-nonfinite', type=int, metavar='N', help=updates)
    samples = 'leave out up to N samples that cannot be read (below 1: a fraction); otherwise the first is an error'
    parser.add_argument('--skip-bad-samples', type=float, metavar='N', help=samples)
    precision = 'mixed precision: bfloat16, on a GPU without it float16 (default: on a GPU)'
    add_shared(parser, '--amp', action=argparse.BooleanOptionalAction, default=None, help=precision)
    add_shared(parser, '--seed', *RUN_ARGUMENTS)


def run(args: Namespace) -> None:
    given = {name: value for name in FOLDER_OPTIONS if (value := getattr(args, name)) is not None}
    if Path(args.config).is_dir():
        _train_folder(args, given)
        return
    if given and Path(args.config).suffix:
        option = f'--{next(iter(given)).replace("_", "-")}'
        raise UserError(
            f'{option} is for a folder of images, {args.config} is a config: change the config, or use --cfg-options'
        )
    if given:
        raise UserError(f'there is no folder {args.config}: check the path')
    train(**keywords(args, *FOLDER_OPTIONS))


def _train_folder(args: Namespace, given: dict[str, Any]) -> None:
    from mmvit_ext.engine.own_data import best_checkpoint, prepare_training

    for option, value in (('--resume', args.resume), ('--launcher', args.launcher != 'none')):
        if value:
            raise UserError(
                f'{option} goes with a config and {args.config} is a folder: give the config that a training has '
                f'written into WORK_DIR/setup, or that `mmvit train {args.config} --dry-run` writes there'
            )
    dry = given.pop('dry_run', False)
    prepared = prepare_training(
        args.config,
        **given,
        work_dir=args.work_dir,
        seed=args.seed or 0,
        trust=args.trust,
        command=args.typed.replace(' --dry-run', ''),  # a dry run writes what the training after it writes
    )
    _tell(prepared.lines, prepared.doubts)
    say(f'config: {prepared.config}')
    if dry:
        own = {f'--{name.replace("_", "-")}' for name in FOLDER_OPTIONS} | {'--work-dir'}
        typed = [word.partition('=')[0] for word in shlex.split(args.typed) if word.startswith('--')]
        others = ', '.join(word for word in typed if word not in own)
        say(f'next: mmvit train {shlex.quote(str(prepared.config))}{others and f", with {others} as here"}')
        return
    options = {**keywords(args, *FOLDER_OPTIONS), 'config': str(prepared.config), 'work_dir': str(prepared.work_dir)}
    train(**options)
    best = best_checkpoint(prepared.work_dir)
    if best is not None:
        words = ['mmvit', 'predict', prepared.config, best, prepared.example.parent, '--out']
        say(f'best checkpoint: {best}')
        say(f'see it: {shlex.join(map(str, [*words, prepared.work_dir / "pictures"]))}')


def _tell(lines: tuple[str, ...], doubts: tuple[str, ...]) -> None:
    """Print what was understood, and what was not certain in another colour where a terminal has colours."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(printable(line), markup=False)
    for line in doubts:
        console.print(printable(f'not certain: {line}'), markup=False, style='yellow')
