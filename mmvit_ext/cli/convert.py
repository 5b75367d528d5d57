"""Convert a released checkpoint to the parameter names of this package.

    mmvit convert segvit SOURCE.pth CONVERTED.pth
    mmvit convert dinov2-onnx vit_s_focus.onnx VIT_S14.pth
    mmvit convert eomt pytorch_model.bin EOMT.pth --base DINOV3.safetensors
    mmvit convert weights work_dirs/RUN/iter_160000.pth MODEL.safetensors --safetensors

Every parameter of the source is used or named in an error. The source is read without running code from it. The method
`weights` keeps the names and leaves out what only training needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmvit_ext.checkpoints import convert
from mmvit_ext.checkpoints.formats import write_safetensors
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import style_hint
from mmvit_ext.cli.arguments import Namespace, Parser, add_shared
from mmvit_ext.errors import UserError, say
from mmvit_ext.files import atomic_path, kept_files
from mmvit_ext.machine import progress_bar
from mmvit_ext.version import __version__


def add_arguments(parser: Parser) -> None:
    parser.add_argument('method', choices=sorted(convert.METHODS), help='whose checkpoint it is')
    parser.add_argument('source', help='the released checkpoint')
    parser.add_argument('destination', help='the file to write (.pth, or .safetensors with --safetensors)')
    base = 'weights that a checkpoint was published as the difference to (eomt, eomt-detector)'
    parser.add_argument('--base', metavar='FILE', help=base)
    parser.add_argument('--safetensors', action='store_true', help='write the safetensors format')
    add_shared(parser, '--force', '--trust', '--traceback')


def run(args: Namespace) -> None:
    source, destination = Path(args.source), Path(args.destination)
    if args.safetensors != (destination.suffix == '.safetensors'):
        what = 'with --safetensors name' if args.safetensors else 'pass --safetensors, or do not name'
        raise UserError(f'{destination}: {what} a file that ends in .safetensors')
    if args.base and not args.method.startswith('eomt'):
        raise UserError(f'--base goes with eomt and eomt-detector, not with {args.method}')
    sources = [source, *([Path(args.base)] if args.base else [])]
    with kept_files(sources, [destination], force=args.force), progress_bar('converting') as bar:
        task = bar.add_task('', total=3)
        content: Mapping[str, Any]
        if args.method == 'dinov2-onnx':
            content = state = convert.read_dinov2_onnx(source)
        else:
            content = read_checkpoint(source, 'source', trust=args.trust)
            state = extract_state_dict(content, source)
            base = read_checkpoint(args.base, '--base', trust=args.trust) if args.base else {}
        bar.advance(task)
        try:
            converted = convert.convert(state, args.method)
            description = convert.describe(state, args.method)
        except ValueError as error:
            hint = style_hint(state)
            hint = '' if f'convert {args.method} ' in hint else hint
            raise UserError(f'{source} is no {args.method} checkpoint that can be converted: {error}{hint}') from error
        if args.base:
            try:
                converted = convert.add_base(converted, extract_state_dict(base, args.base))
            except ValueError as error:
                raise UserError(f'--base {args.base} cannot be added to {source}: {error}') from error
        bar.advance(task)
        meta = {'source': source.name, 'method': args.method, 'mmvit_ext_version': __version__}
        meta |= _class_names(content)
        if args.safetensors:
            write_safetensors(destination, converted, meta)
        else:
            with atomic_path(destination) as file:
                torch.save({'state_dict': converted, 'meta': meta}, file)
        bar.advance(task)
    say(f'{destination}: {len(converted)} parameters from the {len(state)} of {source}')
    if description:
        say(f'It is a {description}.')


def _class_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a training checkpoint says of the classes, which predictions show."""
    meta = content.get('meta')
    told = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    names = {key: told[key] for key in ('classes', 'palette') if told.get(key)} if isinstance(told, Mapping) else {}
    return {'dataset_meta': names} if names else {}
