"""Predict images with a trained model and write pictures of the results.

    mmvit predict CONFIG CHECKPOINT image.jpg --out results
    mmvit predict CONFIG CHECKPOINT folder --out results --save-mask
    mmvit predict CONFIG CHECKPOINT "photos/**/*.jpg" --out results --opacity 0.7

Writes `overlays/NAME.png` and, with --save-mask, `labels/NAME.png` (class index of each pixel, from 0). Segmentation is
drawn as class colours over the image with a legend of the classes that are present below it, and so is panoptic
segmentation; detection as boxes and masks with names and scores, where a small image is enlarged first. Classification
configs get the picture that their library draws. An image that cannot be read is reported at the end; the others are
done, the exit code is 2.
"""

from mmvit_ext.cli.arguments import MODEL_ARGUMENTS, SPEED_ARGUMENTS, Namespace, Parser, add_shared, keywords
from mmvit_ext.errors import say
from mmvit_ext.inference.images import report_failures
from mmvit_ext.inference.predict import predict_images


def add_arguments(parser: Parser) -> None:
    add_shared(parser, 'config', 'checkpoint', 'images', '--out')
    parser.add_argument('--opacity', type=float, default=0.5, help='of the class colours, 0 to 1 (default: 0.5)')
    size = 'pictures of exactly the size of the images'
    parser.add_argument('--no-legend', dest='legend', action='store_false', help=size)
    parser.add_argument('--save-mask', action='store_true', help='write label maps, too')
    least = 'least score of the objects drawn, 0 to 1 (default: 0.3); panoptic segments have none'
    parser.add_argument('--score-threshold', type=float, default=0.3, help=least)
    add_shared(parser, '--force', *SPEED_ARGUMENTS, *MODEL_ARGUMENTS)


def run(args: Namespace) -> int:
    outcome = predict_images(inputs=args.images, **keywords(args, 'images'))
    say(f'{len(outcome.written)} images predicted, results in {args.out}')
    return report_failures(outcome, 'predict')
