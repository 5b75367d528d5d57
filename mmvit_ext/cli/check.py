"""Read every image and annotation of a config's datasets and list what is wrong with them.

    mmvit check CONFIG
    mmvit check CONFIG --split train --jobs 8 --fix-list bad.txt
    cut -f1 bad.txt                                   # the files alone

Finds unreadable and truncated files, missing files, label maps of another size than their image, label values outside
the classes, empty label maps, boxes outside their image or without area, and counts the classes. Exit code 0: nothing
was found; 1: something was, and is listed; 2: the config or its folders are wrong.
"""

from mmvit_ext.checks.datasets import write_fix_list
from mmvit_ext.checks.every_sample import SPLITS, check_every_file
from mmvit_ext.cli.arguments import Namespace, Parser, add_shared
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.errors import say
from mmvit_ext.files import kept_files

SHOWN = 20  # findings of each dataset on the screen when all of them are written to a file


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='which datasets (default: all)')
    parser.add_argument('--fix-list', metavar='FILE', help='write the files to repair or remove, with the reasons')
    parser.add_argument('--jobs', type=int, metavar='N', help='number of processes (default: one per processor)')
    add_shared(parser, '--force', '--cfg-options', '--traceback')


def run(args: Namespace) -> int:
    cfg = load_config(args.config, args.cfg_options)
    prepare_scope(cfg)
    with kept_files([args.config], [args.fix_list], force=args.force):
        reports = check_every_file(cfg, args.split, jobs=args.jobs)
        for report in reports:
            for line in report.lines(SHOWN if args.fix_list else None):
                say(line)
        if args.fix_list:
            say(f'{write_fix_list(args.fix_list, reports)} files listed in {args.fix_list}')
    return int(any(report.findings for report in reports))
