#!/usr/bin/env python
"""Convert a released checkpoint to the parameter names of this package.

    python tools/convert_checkpoint.py segvit SOURCE.pth CONVERTED.pth

Every parameter of the source is used or named in an error. The source is read without running code from it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmvit_ext import __version__
from mmvit_ext.checkpoints.convert import METHODS, convert, describe
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.cli.command import run_command
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description="Convert a released checkpoint to this package's parameter names.")
    parser.add_argument('method', choices=sorted(METHODS), help='whose checkpoint it is')
    parser.add_argument('source', help='the released checkpoint')
    parser.add_argument('destination', help='the file to write (.pth)')
    parser.add_argument('--force', action='store_true', help='overwrite the destination')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read a source that holds more than tensors and plain values; this runs code from the file',
    )
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    source, destination = Path(args.source), Path(args.destination)
    if destination.is_dir():
        raise UserError(f'{destination} is a folder: give the name of the file to write')
    if destination.exists() and source.exists() and destination.samefile(source):
        raise UserError(f'{destination} is the source itself: choose another name for the result')
    if destination.exists() and not args.force:
        raise UserError(f'{destination} exists already: choose another name or pass --force')
    state = extract_state_dict(read_checkpoint(source, 'source', trust=args.trust), source)
    try:
        converted = convert(state, args.method)
        description = describe(state, args.method)
    except ValueError as error:
        raise UserError(f'{source} is no {args.method} checkpoint that can be converted: {error}') from error
    meta = {'source': source.name, 'method': args.method, 'mmvit_ext_version': __version__}
    with atomic_path(destination) as file:
        torch.save({'state_dict': converted, 'meta': meta}, file)
    print(f'{destination}: {len(converted)} parameters from the {len(state)} of {source}')
    if description:
        print(f'It is a {description}.')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, argv, name='convert_checkpoint')


if __name__ == '__main__':
    sys.exit(main())
