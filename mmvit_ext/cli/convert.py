"""Convert a released checkpoint to the parameter names of this package.

    mmvit convert segvit SOURCE.pth CONVERTED.pth

Every parameter of the source is used or named in an error. The source is read without running code from it.
"""

import argparse
from pathlib import Path

import torch

from mmvit_ext.checkpoints import convert
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.styles import style_hint
from mmvit_ext.cli.arguments import add_shared
from mmvit_ext.errors import UserError, say
from mmvit_ext.files import atomic_path, kept_files
from mmvit_ext.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('method', choices=sorted(convert.METHODS), help='whose checkpoint it is')
    parser.add_argument('source', help='the released checkpoint')
    parser.add_argument('destination', help='the file to write (.pth)')
    add_shared(parser, '--force', '--trust', '--traceback')


def run(args: argparse.Namespace) -> None:
    source, destination = Path(args.source), Path(args.destination)
    with kept_files([source], [destination], force=args.force):
        state = extract_state_dict(read_checkpoint(source, 'source', trust=args.trust), source)
        try:
            converted = convert.convert(state, args.method)
            description = convert.describe(state, args.method)
        except ValueError as error:
            hint = style_hint(state)
            hint = '' if f'convert {args.method} ' in hint else hint
            raise UserError(f'{source} is no {args.method} checkpoint that can be converted: {error}{hint}') from error
        meta = {'source': source.name, 'method': args.method, 'mmvit_ext_version': __version__}
        with atomic_path(destination) as file:
            torch.save({'state_dict': converted, 'meta': meta}, file)
    say(f'{destination}: {len(converted)} parameters from the {len(state)} of {source}')
    if description:
        say(f'It is a {description}.')
