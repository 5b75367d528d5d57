"""List the models that have a name, with their task, size, cost and published weights.

    mmvit models                                      # every backbone, and the heads that go with it
    mmvit models segvit                               # all names that hold this word, counted
    mmvit models "mask-rcnn_*-t"

A name is HEAD_BACKBONE, or a backbone alone for classification: `mmvit train FOLDER --model NAME` and
`mmvit_ext.load(NAME)` take it. Parameters are those of the whole model with 150 (segmentation), 80 (detection) or 1000
classes; GFLOPs are multiply-adds at 512x512, 800x1280 and 224x224 pixels. Weights: `timm` are downloaded by themselves,
`file` have to be downloaded and converted first (docs/model_zoo.md), `none` were not published.
"""

from mmvit_ext.cli.arguments import Namespace, Parser
from mmvit_ext.config.zoo import entry_of, list_models
from mmvit_ext.config.zoo.backbones import BACKBONES
from mmvit_ext.config.zoo.heads import HEADS
from mmvit_ext.errors import UserError
from mmvit_ext.machine import progress_bar

CLASSES = {'seg': 150, 'det': 80, 'inst': 80, 'cls': 1000}


def add_arguments(parser: Parser) -> None:
    parser.add_argument('pattern', nargs='?', help='names that hold this word, or match it as a pattern')
    parser.add_argument('--no-count', dest='count', action='store_false', help='leave out parameters and GFLOPs')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')


def run(args: Namespace) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ('name', 'task', 'parameters', 'GFLOPs', 'weights', 'licence of the weights'):
        table.add_column(column, justify='right' if column in ('parameters', 'GFLOPs') else 'left', no_wrap=True)
    names = list_models(args.pattern) if args.pattern else list(BACKBONES)
    if not names:
        entry_of(args.pattern)  # which names close ones
    counting = args.count and bool(args.pattern)
    with progress_bar('counting', show=counting and len(names) > 1) as bar:
        for name in bar.track(names):
            entry = entry_of(name)
            counted = _count(name) if counting else ('', '')
            table.add_row(name, entry.task, *counted, entry.row.weights, entry.row.licence or 'none')
    if not counting:
        del table.columns[2:4]
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
    if not args.pattern:
        for head in HEADS:
            takes = [name for name in BACKBONES if head and HEADS[head].takes(BACKBONES[name])]
            if takes:
                kinds = 'all but spformer' if len(takes) == len(BACKBONES) - 3 else _kinds(takes)
                print(f'{head}_BACKBONE ({HEADS[head].task}): {kinds}')
        print('`mmvit models PATTERN` counts parameters and GFLOPs of the names that match.')


def _kinds(names: list[str]) -> str:
    return ', '.join(dict.fromkeys(name.rpartition('-')[0] for name in names))


def _count(name: str) -> tuple[str, str]:
    """Parameters in millions, and multiply-adds of an image in units of 1e9."""
    from mmvit_ext.config.zoo.counting import count_model

    try:
        parameters, operations = count_model(name, CLASSES[entry_of(name).task])
    except UserError as error:  # a library is missing
        return str(error).partition(':')[0], ''
    return f'{parameters / 1e6:.1f} M', f'{operations / 1e9:.1f}'
