"""Recipes on small sets of photographs fit the data, where somebody has them.

MMVIT_PHOTOGRAPHS names the folder that holds ``camvid``, ``DRIVE`` and so on,
as docs/real_photographs.md describes them.
"""

import itertools
import json
import os
import re
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmvit_ext.checks.layouts import check_layout
from mmvit_ext.config.loading import load_config
from mmvit_ext.reproduce.ledger import PHOTOGRAPHS, read_ledger
from mmvit_ext.reproduce.training import load_row_config

LEDGER = read_ledger()
ROWS = [row for row in LEDGER.rows if row.dataset in PHOTOGRAPHS]


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_a_row_finds_its_photographs_and_opens_them(row):
    folder = os.environ.get('MMVIT_PHOTOGRAPHS')
    if folder is None:
        pytest.skip('MMVIT_PHOTOGRAPHS does not name a folder of photographs')
    cfg = load_config(LEDGER.root / row.config)
    root = Path(folder) / Path(cfg.data_root).name
    if not root.is_dir():
        pytest.skip(f'{root} is not there')
    cfg, _ = load_row_config(LEDGER, row, str(root), None)
    counts = check_layout(cfg, row.dataset, ['train', 'val', 'test'], sample=3)  # what training and scoring look at
    assert [count.opened for count in counts] == [3, 3, 3]


def test_every_set_of_photographs_that_has_a_row_is_on_the_page():
    page = (LEDGER.root / 'docs' / 'real_photographs.md').read_text(encoding='utf-8')
    assert ROWS
    assert {row.name for row in ROWS if row.name not in page} == set()


def test_figures_of_the_page_are_those_of_the_records_they_lead_to():
    """Also the means of several seeds, ``MEAN (FIGURE, FIGURE)``, and in the next cell the same of the edges."""
    page = (LEDGER.root / 'docs' / 'real_photographs.md').read_text(encoding='utf-8')
    checked = 0
    for cells in [line.split(' | ') for line in page.splitlines()]:
        for cell, beside in itertools.zip_longest(cells, cells[1:], fillvalue=''):
            links = re.findall(r'\[([\d.]+)\]\(\.\./(results/\S+?\.json)\)', cell)
            records = [json.loads((LEDGER.root / path).read_text(encoding='utf-8'))['metrics'] for _, path in links]
            for (figure, path), metrics in zip(links, records, strict=True):
                digits = len(figure.partition('.')[2])
                assert float(figure) in [round(value, digits) for value in metrics.values()], path
            check_mean(cell.partition(' (')[0], [float(figure) for figure, _ in links])
            numbers = re.fullmatch(r'(?:([\d.]+) \()?([\d., ]+)\)?', beside) if len(cells) > 1 else None
            if links and numbers and all('trimap/mIoU' in metrics for metrics in records):
                edges = [float(number) for number in numbers[2].split(', ')]
                for edge, metrics in zip(edges, records, strict=True):
                    assert abs(metrics['trimap/mIoU'] - edge) <= 0.051, links  # the page has one digit
                check_mean(numbers[1], edges)
            checked += len(links)
    assert checked > 5


def check_mean(text, values):
    """Check the mean that a cell begins with, if it does."""
    if text and re.fullmatch(r'[\d.]+', text) and len(values) > 1:
        assert abs(sum(values) / len(values) - float(text)) <= 0.051, values
