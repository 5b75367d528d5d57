"""Get a published row again: evaluate a checkpoint or train the recipe, compare, and keep a record.

    mmvit reproduce --list [--method NAME] [--dataset NAME]
    mmvit reproduce ROW --data-root DIR [--checkpoint FILE|URL] [--tta] [--record]
    mmvit reproduce ROW --data-root DIR --train
    mmvit reproduce ROW --estimate

A row is named by its config. Without --checkpoint, the newest checkpoint in work_dirs/ROW is evaluated, or else the one
whose address the ledger has. The exit code is 1 when the measured value misses the published one.
"""

import argparse
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmvit_ext.cli.arguments import Namespace, Parser, add_shared
from mmvit_ext.errors import UserError
from mmvit_ext.reproduce.estimate import ITERATIONS, estimate_row
from mmvit_ext.reproduce.ledger import NOT_IN_SOURCES, Ledger, Row, read_ledger
from mmvit_ext.reproduce.pages import write_pages
from mmvit_ext.reproduce.records import (
    MISSED,
    Record,
    Records,
    check_checkout,
    expected_values,
    file_in_results,
    newest,
    read_records,
)
from mmvit_ext.reproduce.rescore import evaluate_row
from mmvit_ext.reproduce.training import train_row

EXIT_MISSED = 1
NARROW = 240  # columns of a terminal in which the table of rows has one column


def add_arguments(parser: Parser) -> None:
    parser.add_argument('row', nargs='?', metavar='ROW', help='name of its config; --list shows them')
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--list', action='store_true', help='show the rows: published, tolerance, measured')
    action.add_argument('--train', action='store_true', help='train the recipe on the GPUs at hand')
    action.add_argument('--estimate', action='store_true', help='time and memory of the training, on random data')
    action.add_argument('--update-pages', action='store_true', help='write the model zoo pages anew')
    listing = parser.add_argument_group('--list')
    listing.add_argument('--method', help='only this method, for example segvit')
    listing.add_argument('--dataset', help='only datasets with this in their name, for example ade20k or mini')
    data = parser.add_argument_group('evaluation and --train')
    data.add_argument('--data-root', help="the dataset's folder (default: where the config says)")
    add_shared(data, '--work-dir', help='logs, checkpoints and the record (default: work_dirs/ROW)')
    data.add_argument('--gpus', type=int, help='how many (default: all; without one, the CPU)')
    add_shared(data, '--cfg-options')
    evaluation = parser.add_argument_group('evaluation')
    evaluation.add_argument('--checkpoint', metavar='FILE|URL', help='what to evaluate')
    add_shared(evaluation, '--tta', help='test-time augmentation, for multi-scale figures')
    evaluation.add_argument('--record', action='store_true', help='file the record in results/ and update the pages')
    evaluation.add_argument('--cache-dir', help='where downloads are kept (default: ~/.cache/mmvit_ext/checkpoints)')
    evaluation.add_argument('--offline', action='store_true', help='do not use the network')
    add_shared(evaluation, '--trust')
    training = parser.add_argument_group('--train and --estimate')
    training.add_argument('--images-per-gpu', type=int, metavar='N', help="per iteration (default: the recipe's)")
    precision = dict(action=argparse.BooleanOptionalAction, default=None, help='mixed precision (default: on a GPU)')
    add_shared(training, '--amp', **precision)
    add_shared(training, '--seed', help='seed of every random generator (--train)')
    timed = f'timed by --estimate (default: {ITERATIONS})'
    machines = 'numbers of machines that --estimate tells the time for (default: 8)'
    training.add_argument('--iterations', type=int, metavar='N', help=timed)
    training.add_argument('--machines', type=int, nargs='+', metavar='N', help=machines)
    add_shared(parser, '--traceback')


USED = {
    '--list': {'method', 'dataset'},
    '--update-pages': set(),
    '--estimate': {'iterations', 'machines', 'images_per_gpu', 'amp', 'gpus', 'cfg_options'},
    '--train': {'images_per_gpu', 'amp', 'seed', 'gpus', 'cfg_options', 'data_root', 'work_dir'},
    'an evaluation': {'checkpoint', 'tta', 'record', 'cache_dir', 'offline', 'trust', 'gpus', 'cfg_options'}
    | {'data_root', 'work_dir'},
}
"""Options that each action of the command takes, by their names in Python."""


def _refuse_unused(args: Namespace) -> None:
    """Raise ``UserError`` for an option that the chosen action does not look at."""
    flags = ('list', 'train', 'estimate', 'update_pages')
    action = next((f'--{name.replace("_", "-")}' for name in flags if getattr(args, name)), 'an evaluation')
    for name in sorted(set().union(*USED.values()) - USED[action]):
        if getattr(args, name) not in (None, False):
            raise UserError(f'--{name.replace("_", "-")} has no effect with {action}: leave it out')


def run(args: Namespace) -> int:
    _refuse_unused(args)
    if min(args.machines or [1]) < 1:
        raise UserError(f'--machines {min(args.machines)}: expected 1 or more')
    ledger = read_ledger()
    if args.list:
        console = Console()
        if not console.is_terminal:
            console = Console(width=400)  # for a file or another command, whose width is not known
        console.print(rows_table(ledger, args.method, args.dataset, narrow=console.width < NARROW))
        return 0
    for option in ('record', 'update_pages'):
        if getattr(args, option):
            check_checkout(ledger, f'--{option.replace("_", "-")}')
    if args.update_pages:
        print('\n'.join(write_pages(ledger)) or 'all pages are up to date')
        return 0
    if not args.row:
        raise UserError('name a row, or pass --list to see which there are')
    row = ledger.find(args.row)
    shared = {name: getattr(args, name) for name in ('gpus', 'cfg_options')}
    training = {name: getattr(args, name) for name in ('images_per_gpu', 'amp')}
    if args.estimate:
        given = {} if args.iterations is None else {'iterations': args.iterations}
        estimate = estimate_row(ledger, row, **given, **training, **shared)
        print('\n'.join(estimate.lines([count for count in args.machines or [8] if count > 1])))
        return 0 if estimate.fits else EXIT_MISSED
    shared.update(data_root=args.data_root, work_dir=args.work_dir)
    if args.train:
        return train_row(ledger, row, seed=args.seed, **training, **shared)
    shared |= {name: getattr(args, name) for name in ('checkpoint', 'cache_dir', 'offline', 'trust')}
    record = evaluate_row(ledger, row, multi_scale=args.tta, command=args.typed, **shared)
    print_record(record, expected_values(ledger, row, record.scale, read_records(ledger))[1], Console())
    if args.record:
        print(f'filed as {file_in_results(ledger, record)}')
        for page in write_pages(ledger):
            print(f'updated {page}')
    return EXIT_MISSED if record.verdict == MISSED else 0


def rows_table(ledger: Ledger, method: str | None = None, dataset: str | None = None, *, narrow: bool = False) -> Table:
    """Rows, published and measured; ``narrow`` uses one column: a long name over several lines cannot be copied."""
    records = read_records(ledger)
    table = Table(caption='per cent; "measured here" is the newest record in results/', box=SIMPLE_HEAD)
    table.add_column('row', no_wrap=True, overflow='ignore')
    for row in ledger.select(method, dataset):
        told = row.published and not row.ours
        cells = {
            'dataset': row.dataset,
            'published': _values(row.published) or ('' if row.ours else NOT_IN_SOURCES),
            'source': f'{row.source}, {row.table}'.replace(f', {NOT_IN_SOURCES}', '') if told else '',
            'certainty': row.certainty if told else '',
            'measured here': _measured(row, records),
            'training': row.training if row.config else 'no config here',
            'checkpoint': _checkpoint(row),
            'licence': row.collection.licence if row.weights or row.folder else '',
        }
        if narrow:
            table.add_row(row.name)
            table.add_row('\n'.join(f'    {title}: {text}' for title, text in cells.items() if text), style='dim')
            continue
        if len(table.columns) == 1:
            for title in cells:
                table.add_column(title, overflow='fold')
        table.add_row(row.name, *cells.values())
    return table


def _values(values: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value}' for name, value in values.items())


def _measured(row: Row, records: Records) -> str:
    found = [entry[1] for scale in ('single', 'multi') if (entry := newest(records, row.name, scale))]
    return '; '.join(f'{_values(record.metrics)} ({record.verdict})' for record in found) or 'not measured'


def _checkpoint(row: Row) -> str:
    if row.weights:
        return f'{row.weights} ({row.file + ", " if row.file else ""}SHA-256 {row.sha256 or "unknown"})'
    if row.folder:
        return f'by hand: {row.file} from {row.folder}'
    return 'train it (--train)' if row.ours else ''


def print_record(record: Record, why: str, console: Console) -> None:
    """Show what was measured and what it is compared with; ``why`` says where the expected values come from."""
    table = Table('metric', title=f'{record.row} ({record.scale} scale)')
    for title in ('measured', 'expected', 'difference'):
        table.add_column(title, justify='right')
    for name in dict.fromkeys([*record.metrics, *record.expected]):
        values = [str(part.get(name, '')) for part in (record.metrics, record.expected)]
        table.add_row(name, *values, f'{record.difference[name]:+.2f}' if name in record.difference else '')
    console.print(table)
    facts = f'expected: {why}; tolerance: {record.tolerance:g} points\nverdict: {record.verdict}'
    console.print(facts, soft_wrap=True)
