#!/usr/bin/env python
"""Evaluate a checkpoint on the test data of an mmseg, mmdet or mmpretrain config.

python tools/test.py CONFIG CHECKPOINT
python tools/test.py CONFIG CHECKPOINT --tta --out metrics.json
bash tools/dist_test.sh CONFIG CHECKPOINT 8                 # on 8 GPUs
"""

import argparse
from collections.abc import Sequence

from mmvit_ext.cli.arguments import add_common_arguments
from mmvit_ext.cli.command import run_command
from mmvit_ext.cli.process_end import end_process
from mmvit_ext.engine.testing import run_test


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint of an mmseg, mmdet or mmpretrain config.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, as the config's tta_pipeline says")
    parser.add_argument(
        '--out', help='FILE.json: the metrics; FILE.pkl: the predictions; a folder (mmseg): label maps as PNG'
    )
    parser.add_argument('--show-dir', help='folder for pictures with the predictions drawn in')
    add_common_arguments(parser)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    run_test(build_parser().parse_args(argv))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='test')


if __name__ == '__main__':
    end_process(main)
