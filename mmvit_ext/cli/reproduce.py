"""Get a published row again: evaluate a checkpoint or train the recipe, compare, and keep a record.

    mmvit reproduce --list [--method NAME] [--dataset NAME]
    mmvit reproduce ROW --data-root DIR [--checkpoint FILE|URL] [--tta] [--record]
    mmvit reproduce ROW --data-root DIR --train
    mmvit reproduce ROW --estimate

A row is named by its config. Without --checkpoint, the newest checkpoint in work_dirs/ROW is evaluated, or else the one
whose address the ledger has. The exit code is 1 when the measured value misses the published one.
"""

import argparse

from rich.console import Console

from mmvit_ext.cli.arguments import add_shared
from mmvit_ext.errors import UserError
from mmvit_ext.reproduce.estimate import ITERATIONS, estimate_row
from mmvit_ext.reproduce.ledger import Ledger, Row, read_ledger
from mmvit_ext.reproduce.listing import print_record, rows_table
from mmvit_ext.reproduce.pages import write_pages
from mmvit_ext.reproduce.records import MISSED, check_checkout, expected_values, file_in_results, read_records
from mmvit_ext.reproduce.rescore import evaluate_row
from mmvit_ext.reproduce.training import train_row

EXIT_MISSED = 1
NARROW = 240
"""Columns of a terminal in which the table of rows has one column."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_shared(training, '--amp')
    add_shared(training, '--seed', help='seed of every random generator (--train)')
    timed, machines = 'timed by --estimate (default: %(default)s)', 'numbers of machines to estimate for'
    training.add_argument('--iterations', type=int, default=ITERATIONS, metavar='N', help=timed)
    training.add_argument('--machines', type=int, nargs='+', default=[8], metavar='N', help=machines)
    add_shared(parser, '--traceback')


def run(args: argparse.Namespace) -> int:
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
    shared = {'gpus': args.gpus, 'cfg_options': args.cfg_options}
    training = {'images_per_gpu': args.images_per_gpu, 'amp': args.amp, **shared}
    if args.estimate:
        estimate = estimate_row(ledger, row, iterations=args.iterations, **training)
        print('\n'.join(estimate.lines(args.machines)))
        return 0 if estimate.fits else EXIT_MISSED
    shared.update(data_root=args.data_root, work_dir=args.work_dir)
    if args.train:
        return train_row(ledger, row, seed=args.seed, **{**training, **shared})
    return _evaluate(args, ledger, row, shared)


def _evaluate(args: argparse.Namespace, ledger: Ledger, row: Row, shared: dict) -> int:
    record = evaluate_row(
        ledger,
        row,
        checkpoint=args.checkpoint,
        multi_scale=args.tta,
        cache_dir=args.cache_dir,
        offline=args.offline,
        trust=args.trust,
        command=args.typed,
        **shared,
    )
    print_record(record, expected_values(ledger, row, record.scale, read_records(ledger))[1], Console())
    if args.record:
        print(f'filed as {file_in_results(ledger, record)}')
        for page in write_pages(ledger):
            print(f'updated {page}')
    return EXIT_MISSED if record.verdict == MISSED else 0
