"""Generate images with a trained generator.

    mmvit generate CONFIG CHECKPOINT --num 64 --seed 0 --out results

Writes `samples/00000.png` and so on, and `grid.png` with the first 64. The same seed gives the same images, whatever
their number.
"""

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.errors import say
from mmvit_ext.inference.generate import generate_images
from mmvit_ext.inference.images import report_failures


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint', '--out')
    parser.add_argument('--num', type=int, default=64, help='number of images (default: 64)')
    parser.add_argument('--columns', type=int, default=8, help='images of a row of the grid (default: 8)')
    add_shared(parser, '--seed', default=0, help='seed of the noise (default: 0)')
    add_shared(parser, '--force', *MODEL_ARGUMENTS)


def run(args: Namespace) -> int:
    outcome = generate_images(**keywords(args))
    say(f'{len(outcome.written)} images generated, results in {args.out}')
    return report_failures(outcome, 'generate')
