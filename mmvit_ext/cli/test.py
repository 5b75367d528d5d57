"""Evaluate a checkpoint on the test data of an mmseg, mmdet or mmpretrain config.

mmvit test CONFIG CHECKPOINT
mmvit test CONFIG CHECKPOINT --tta --out metrics.json
bash tools/dist_test.sh CONFIG CHECKPOINT 8       # on 8 GPUs
"""

from mmvit_ext.cli.arguments import RUN_ARGUMENTS, SPEED_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.engine.testing import test
from mmvit_ext.files import kept_files


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint', '--tta')
    out = 'FILE.json: the metrics; FILE.pkl: the predictions; a folder (mmseg): label maps as PNG'
    parser.add_argument('--out', help=out)
    parser.add_argument('--show-dir', help='folder for pictures with the predictions drawn in')
    add_shared(parser, '--force', *SPEED_ARGUMENTS, *RUN_ARGUMENTS)


def run(args: Namespace) -> None:
    with kept_files([args.config, args.checkpoint], [args.out, args.show_dir], force=args.force):
        test(**keywords(args, 'force'))
