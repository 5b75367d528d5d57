r"""Predict the images of a test server into the archive that it takes, and check such archives.

    mmvit submit coco CONFIG CHECKPOINT --images test2017 --annotations image_info_test-dev2017.json \
        --out detections_test-dev2017_NAME_results.zip
    mmvit submit ade20k CONFIG CHECKPOINT --images testing --out release_test.zip [--tta]
    mmvit submit check ARCHIVE.zip [--images DIR | --annotations FILE.json]

An interrupted run keeps its finished images in OUT.partial; the same command continues from there. The archive appears
when it is complete, and is checked then. The exit code is 0 for an archive without faults.
"""

from pathlib import Path

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, SPEED_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.errors import EXIT_BAD_INPUT, say
from mmvit_ext.inference.images import report_failures
from mmvit_ext.submission.check import check_archive
from mmvit_ext.submission.run import ADE20K, COCO, KINDS

TASKS = {'coco': 'COCO detection: test-dev2017 and other splits', 'ade20k': 'ADE20K scene parsing'}


def add_arguments(parser: Parser) -> None:
    tasks = parser.add_subparsers(dest='task', required=True, metavar='{coco,ade20k,check}')
    for name, title in TASKS.items():
        task = tasks.add_parser(name, help=title, description=title)
        add_shared(task, 'config', 'checkpoint', '--tta')
        task.add_argument('--images', required=True, metavar='DIR', help='folder of the test images')
        add_shared(task, '--out', metavar='FILE.zip', help='the archive')
        if name == 'coco':
            listed = 'image list of the split (default: every image of the folder, with the id that is its name)'
            task.add_argument('--annotations', metavar='FILE.json', help=listed)
            task.add_argument('--type', dest='kind', choices=KINDS, help='only this test type (default: all)')
        add_shared(task, *SPEED_ARGUMENTS, *MODEL_ARGUMENTS)
    check = tasks.add_parser('check', help='check an archive', description='Open an archive as its server would.')
    check.add_argument('archive', metavar='FILE.zip', help='the archive')
    known = check.add_mutually_exclusive_group()
    known.add_argument('--images', metavar='DIR', help='folder of the test images, for their names and sizes')
    known.add_argument('--annotations', metavar='FILE.json', help='image list of the split (COCO)')
    check.add_argument('--all', action='store_true', help='list every fault, not only the first of each kind')
    add_shared(check, '--traceback')


def _check(archive: str | Path, *, complete: bool = False, **known: str | None) -> int:
    report = check_archive(archive, **known)
    for line in report.lines(complete=complete):
        say(line)
    return EXIT_BAD_INPUT if report.faults else 0


def run(args: Namespace) -> int:
    if args.task == 'check':
        return _check(args.archive, complete=args.all, images=args.images, annotations=args.annotations)
    coco = args.task == 'coco'
    benchmark = COCO(args.annotations, args.kind) if coco else ADE20K()
    written, outcome = benchmark.submit(**keywords(args, 'task', 'annotations', 'kind'))
    known = {'annotations': args.annotations} if coco and args.annotations else {'images': args.images}
    if outcome.failed:
        print('no archive written; the finished images are kept, run the same command again for the others')
        return report_failures(outcome, 'submit')
    code = 0
    for archive in written:
        say(f'written: {archive}')
        code = max(code, _check(archive, **known))
    return code
