#!/usr/bin/env python
"""Read every image and annotation of a config's datasets and list what is wrong with them.

    python tools/check_dataset.py CONFIG
    python tools/check_dataset.py CONFIG --split train --jobs 8 --fix-list bad.txt
    cut -f1 bad.txt                                                 # the files alone

Finds unreadable and truncated files, missing files, label maps of another size than their image, label values outside
the classes, empty label maps, boxes outside their image or without area, and counts the classes. Exit code 0: nothing
was found; 1: something was, and is listed; 2: the config or its folders are wrong.
"""

import argparse
import sys
from collections.abc import Sequence

from mmengine.registry import init_default_scope

from mmvit_ext.checks.every_sample import SPLITS, check_every_file
from mmvit_ext.checks.report import write_fix_list
from mmvit_ext.cli.arguments import ConfigOptions
from mmvit_ext.cli.command import run_command
from mmvit_ext.config.loading import load_config, prepare_scope

SHOWN = 20  # findings of each dataset on the screen when all of them are written to a file


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description="Read every image and annotation of a config's datasets.")
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='which datasets (default: all)')
    parser.add_argument('--fix-list', metavar='FILE', help='write the files to repair or remove, with the reasons')
    parser.add_argument('--jobs', type=int, metavar='N', help='number of processes (default: one per processor)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config'
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(prepare_scope(cfg))
    reports = check_every_file(cfg, args.split, jobs=args.jobs)
    for report in reports:
        print('\n'.join(report.lines(SHOWN if args.fix_list else None)))
    if args.fix_list:
        print(f'{write_fix_list(args.fix_list, reports)} files listed in {args.fix_list}')
    return int(any(report.findings for report in reports))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='check_dataset')


if __name__ == '__main__':
    sys.exit(main())
