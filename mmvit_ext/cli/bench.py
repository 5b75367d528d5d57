"""Measure the networks on a GPU: times, memory, kernels, and the share of what the GPU can do.

mmvit bench gpu                               # all of it, in ten minutes, into results/gpu/
mmvit bench gpu --parts segvit --budget 200
mmvit bench gpu --device cpu --toy            # tiny sizes, to test the command

It needs a checkout of the repository: `benchmarks/` is not part of the installed package.
"""

import importlib
import sys
from pathlib import Path

from mmvit_ext.cli.arguments import Namespace, Parser
from mmvit_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ('device', 'budget', 'parts', 'out')


def add_arguments(parser: Parser) -> None:
    parser.add_argument('what', choices=('gpu',), help='what is measured')
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, ... or cpu (default: cuda)')
    parser.add_argument('--toy', action='store_true', help='tiny networks and images, to test the command')
    parser.add_argument('--budget', type=float, default=600, metavar='SECONDS', help='for everything (default: 600)')
    parts = 'some of rates,right,segvit,head,p2t,spformer,tnt,nest,kernels,data (default: all)'
    parser.add_argument('--parts', help=parts)
    parser.add_argument('--out', metavar='FOLDER', help='folder of the JSON (default: results/gpu; none with --toy)')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')


def run(args: Namespace) -> int:
    if not (ROOT / 'benchmarks' / 'gpu.py').exists():
        raise UserError(
            'mmvit bench: there is no benchmarks/ beside the package: clone the repository and run it there'
        )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    words = [f'--{name}={value}' for name in OPTIONS if (value := getattr(args, name)) is not None]
    return importlib.import_module('benchmarks.gpu').main([*words, *(['--toy'] if args.toy else [])])
