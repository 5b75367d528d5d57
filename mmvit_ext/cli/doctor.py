"""Check the installed libraries, and name what to do about each fault."""

import argparse

from mmvit_ext import doctor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')


def run(args: argparse.Namespace) -> int:
    return doctor.main(['--json'] if args.json else [])
