"""Check the installed libraries, and name what to do about each fault."""

from argparse import Namespace

from mmvit_ext import doctor
from mmvit_ext.cli.command import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')


def run(args: Namespace) -> int:
    return doctor.main(['--json'] if args.json else [])
