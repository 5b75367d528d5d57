#!/usr/bin/env python
"""Predict the images of a test server into the archive that it takes, and check such archives.

    python tools/submit.py coco CONFIG CHECKPOINT --images test2017 --annotations image_info_test-dev2017.json \
        --out detections_test-dev2017_NAME_results.zip
    python tools/submit.py ade20k CONFIG CHECKPOINT --images testing --out release_test.zip [--tta]
    python tools/submit.py check ARCHIVE.zip [--images DIR | --annotations FILE.json]

An interrupted run keeps its finished images in OUT.partial; the same command goes on from there. The archive appears
when it is complete, and is checked then. The exit code is 0 for an archive without faults.
"""

import argparse
import sys
from collections.abc import Sequence

from mmvit_ext.cli.arguments import add_model_arguments, model_options
from mmvit_ext.cli.command import run_command
from mmvit_ext.errors.exit_codes import EXIT_BAD_INPUT
from mmvit_ext.inference.images import report_failures
from mmvit_ext.submission.ade20k import submit_ade20k
from mmvit_ext.submission.check import Report, check_archive
from mmvit_ext.submission.coco import KINDS, submit_coco


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description='Hand predictions in to a test server.')
    tasks = parser.add_subparsers(dest='task', required=True, metavar='{coco,ade20k,check}')
    for name, title in (('coco', 'COCO detection: test-dev2017 and other splits'), ('ade20k', 'ADE20K scene parsing')):
        task = tasks.add_parser(name, help=title, description=title)
        task.add_argument('config', help='config file')
        task.add_argument('checkpoint', help='checkpoint file (.pth)')
        task.add_argument('--images', required=True, metavar='DIR', help='folder of the test images')
        task.add_argument('--out', required=True, metavar='FILE.zip', help='the archive')
        task.add_argument('--tta', action='store_true', help="several scales, as the config's tta_pipeline says")
        if name == 'coco':
            task.add_argument(
                '--annotations',
                metavar='FILE.json',
                help='image list of the split, such as image_info_test-dev2017.json (default: every image of the '
                'folder, with the id that is its name)',
            )
            task.add_argument(
                '--type', choices=KINDS, help='only this test type (default: all that the model predicts)'
            )
        add_model_arguments(task)
    check = tasks.add_parser('check', help='check an archive', description='Open an archive as its server would.')
    check.add_argument('archive', metavar='FILE.zip', help='the archive')
    known = check.add_mutually_exclusive_group()
    known.add_argument('--images', metavar='DIR', help='folder of the test images, for their names and sizes')
    known.add_argument('--annotations', metavar='FILE.json', help='image list of the split (COCO)')
    check.add_argument('--all', action='store_true', help='list every fault, not only the first of each kind')
    check.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _print(report: Report, *, complete: bool = False) -> int:
    print('\n'.join(report.lines(complete=complete)))
    return EXIT_BAD_INPUT if report.faults else 0


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    if args.task == 'check':
        report = check_archive(args.archive, images=args.images, annotations=args.annotations)
        return _print(report, complete=args.all)
    options = {'tta': args.tta, **model_options(args)}
    if args.task == 'coco':
        archives, outcome = submit_coco(
            args.config,
            args.checkpoint,
            args.images,
            args.out,
            annotations=args.annotations,
            kind=args.type,
            **options,
        )
        written = list(archives.values())
        known = {'annotations': args.annotations} if args.annotations else {'images': args.images}
    else:
        archive, outcome = submit_ade20k(args.config, args.checkpoint, args.images, args.out, **options)
        written, known = [archive], {'images': args.images}
    if outcome.failed:
        print('no archive written; the finished images are kept, run the same command again for the others')
        return report_failures(outcome, 'submit')
    code = 0
    for archive in written:
        print(f'written: {archive}')
        code = max(code, _print(check_archive(archive, **known)))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    again = 'finished images are kept, run the same command again to go on'
    return run_command(_run, argv, name='submit', after_interrupt=again)


if __name__ == '__main__':
    sys.exit(main())
