"""The ledger and the pages made from it: nothing published is lost, nothing else gets in, nothing is stale."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mmvit_ext.cli.reproduce import rows_table
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import named_hash
from mmvit_ext.reproduce.ledger import METRICS, NOT_IN_SOURCES, find_root, read_ledger
from mmvit_ext.reproduce.pages import render_pages
from mmvit_ext.reproduce.records import compare, expected_values, measured_values, read_records

ROOT = Path(__file__).parents[2]
LEDGER = read_ledger()
RECORDS = read_records(LEDGER)
PAGES = render_pages(LEDGER, RECORDS)


PUBLISHED = ('GFLOPs', 'Parameters', 'Images per second on a V100')
"""What metafiles say of a published network besides its results."""


def row(name):
    return LEDGER.find(name)


def table_rows(text):
    """The cells of every line of every table, by the row's name, with the titles of their columns."""
    found, titles = {}, []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('| ') else []
        if cells and cells[0] == 'config':
            titles = cells
        elif cells:
            name = re.match(r'\[?([^\]]+)', cells[0])[1]
            assert len(cells) == len(titles), line
            found.setdefault(name, []).append(dict(zip(titles, cells, strict=True)))
    return found


@pytest.mark.parametrize('page', PAGES)
def test_model_zoo_pages_are_not_stale(page):
    assert (ROOT / page).read_text() == PAGES[page], 'python tools/reproduce.py --update-pages'


def test_every_result_of_the_metafiles_is_a_row():
    names = set()
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        content = yaml.safe_load((ROOT / path).read_text())
        names |= {model['Name'] for model in content['Models'] if 'Results' in model}
        names |= {model['Name'] for model in content.get('Rows without a config', [])}
    assert {row.name for row in LEDGER.rows} == names


def test_the_zoo_shows_every_published_figure_as_published():
    shown = table_rows(PAGES['docs/model_zoo.md'])
    for row in LEDGER.rows:
        (cells,) = shown[row.name]
        published = ' '.join(text for title, text in cells.items() if title.startswith('published'))
        for value in [*row.published.values(), *map(row.metadata.get, PUBLISHED)]:
            assert value is None or str(value) in published.replace(',', '').split(), (row.name, value)


def test_the_zoo_shows_no_figure_that_is_neither_published_nor_counted_nor_measured():
    shown = table_rows(PAGES['docs/model_zoo.md'])
    for row in LEDGER.rows:
        (cells,) = shown[row.name]
        allowed = {str(value) for value in [*row.published.values(), *row.metadata.values(), row.tolerance]}
        for title, text in cells.items():
            if title.startswith('published'):
                figures = [part.split()[-1] for part in text.split(',') if part]
                assert set(figures) <= {str(value) for value in row.published.values()} | {
                    str(row.metadata.get(name)) for name in PUBLISHED
                }
            elif title.endswith('here') and 'measured' not in title:
                assert not text or text in allowed
            elif 'measured here' in title and text != 'not measured':
                for figures, target in re.findall(r'\[([^\]]+)\]\(\.\./(results/[^)]+)\)', text):
                    record = json.loads((ROOT / target).read_text())
                    assert record['row'] == row.name
                    assert {float(figure) for figure in figures.split(', ')} <= set(record['metrics'].values())
                assert '](' in text
            elif 'measured' in title:
                assert text == 'not measured'


def test_published_and_measured_never_share_a_column():
    for page in PAGES.values():
        for line in page.splitlines():
            if line.startswith('| config |'):
                assert not [title for title in line.split('|') if 'published' in title and 'here' in title]


def test_a_filed_record_fills_its_cell_and_nothing_else():
    plain = render_pages(LEDGER, type(RECORDS)([]))['docs/model_zoo.md']
    name = 'segvit_vit-b16_8xb2-160k_ade20k-512x512'
    assert table_rows(plain)[name][0]['mIoU measured here'] == 'not measured'
    entry = ('results/x/y.json', example_record(row=name, metrics={'mIoU': 51.17}))
    filled = render_pages(LEDGER, type(RECORDS)([entry]))['docs/model_zoo.md']
    cells = table_rows(filled)[name][0]
    assert cells['mIoU measured here'] == '[51.17](../results/x/y.json)'
    assert cells['mIoU (ms) measured here'] == 'not measured'
    changed = [line for line in filled.splitlines() if line not in plain.splitlines()]
    assert len(changed) == 1


def test_a_cell_shows_the_newest_record_of_every_seed():
    name = 'linear_vit-s14_1xb4-400_camvid-280x378'

    def shown(*entries):
        records = {
            f'results/x/{number}.json': example_record(
                row=name, date=f'2026-01-0{number}', metrics={'mIoU': miou}, checkpoint={'sha256': '0' * 64, **seed}
            )
            for number, (miou, seed) in enumerate(entries)
        }
        return table_rows(render_pages(LEDGER, records)['docs/model_zoo.md'])[name][0]['measured here']

    first, again, second, unknown = (51.0, {'seed': 0}), (52.0, {'seed': 0}), (53.0, {'seed': 1}), (54.0, {})
    assert shown(unknown, first) == 'mIoU [51.0](../results/x/1.json)'
    assert shown(first, unknown) == 'mIoU [54.0](../results/x/1.json)'
    both = 'mIoU [52.0](../results/x/1.json) (seed 0), [53.0](../results/x/2.json) (seed 1)'
    assert shown(first, again, second) == both


def example_record(**changes):
    from mmvit_ext.reproduce.records import Record

    fields = dict(
        row='a', scale='single', command='', commit='', date='2026-01-02T03:04:05+00:00', seconds=1.0, versions={},
        hardware={}, dataset={}, checkpoint={'sha256': '0' * 64}, metrics={}, expected={}, difference={},
        tolerance=0.2, verdict='',
    )  # fmt: skip
    return Record(**{**fields, **changes})


@pytest.mark.parametrize('path', sorted((ROOT / 'results').glob('*/*.json')), ids=lambda path: path.stem)
def test_filed_records_say_what_their_figures_say(path):
    record = RECORDS[path.relative_to(ROOT).as_posix()]
    difference, verdict = compare(record.metrics, record.expected, record.tolerance)
    assert dict(record.difference) == difference
    assert record.verdict == verdict
    assert record.tolerance == row(record.row).tolerance
    assert record.checkpoint['sha256'][:8] in path.name
    assert '/home' not in path.read_text()


@pytest.mark.parametrize(
    ('measured', 'verdict'),
    [(54.8, 'reproduced'), (54.4, 'reproduced'), (54.39, 'missed'), (54.81, 'better'), (54.6, 'reproduced')],
)
def test_the_verdict_changes_exactly_at_the_tolerance(measured, verdict):
    assert compare({'mIoU': measured}, {'mIoU': 54.6}, 0.2)[1] == verdict


def test_one_missed_metric_of_several_is_a_miss():
    expected = {'mIoU': 43.4, 'aAcc': 80.8, 'mAcc': 54.5}
    assert compare({'mIoU': 44.0, 'aAcc': 80.8, 'mAcc': 54.2}, expected, 0.2)[1] == 'missed'
    assert compare({'mIoU': 43.4, 'aAcc': 80.8}, expected, 0.2)[1] == 'missed'
    assert compare({'mIoU': 44.0, 'aAcc': 80.8, 'mAcc': 54.4}, expected, 0.2)[1] == 'better'
    assert compare(expected, {}, 0.2)[1] == 'nothing to compare with'


def test_of_a_distance_less_is_better():
    assert compare({'FID': 30.3}, {'FID': 30.0}, 0.2)[1] == 'missed'
    assert compare({'FID': 29.7}, {'FID': 30.0}, 0.2)[1] == 'better'


def test_figures_of_both_scales_are_kept_apart():
    big = row('segvit_vit-l16_8xb2-160k_ade20k-640x640')
    assert measured_values(big, 'single', {'mIoU': 54.634, 'aAcc': 1}) == {'mIoU': 54.63}
    assert measured_values(big, 'multi', {'mIoU': 55.1}) == {'mIoU(ms+flip)': 55.1}
    assert expected_values(LEDGER, big, 'multi', RECORDS)[0] == {'mIoU(ms+flip)': 55.2}
    assert not big.multi_scale_only
    assert row('segvit_vit-l16_8xb2-80k_pascal-context-480x480').multi_scale_only


def test_fractions_become_per_cent():
    mask = row('mask-rcnn_p2t-ti_fpn_1x_coco')
    results = {'coco/bbox_mAP': 0.433, 'coco/bbox_mAP_50': 0.657, 'coco/segm_mAP': 0.396, 'coco/segm_mAP_50': 0.625}
    assert measured_values(mask, 'single', results) == dict(mask.published)


def test_a_published_difference_needs_its_baseline_and_is_added_to_it():
    gain = row('setr-superpixel_spformer-s16_8xb2-160k_ade20k-512x512')
    assert gain.baseline == 'setr-naive_deit-s16_8xb2-160k_ade20k-512x512'
    none, why = expected_values(LEDGER, gain, 'single', type(RECORDS)([]))
    assert not none
    assert gain.baseline in why
    entry = ('results/b.json', example_record(row=gain.baseline, metrics={'mIoU': 40.13}))
    assert expected_values(LEDGER, gain, 'single', type(RECORDS)([entry]))[0] == {'mIoU': 44.33}


def test_rows_are_found_by_method_and_dataset_and_told_apart_by_name():
    assert {row.collection.name for row in LEDGER.select('p2t')} == {'P2T'}
    assert {row.dataset for row in LEDGER.select(dataset='coco-stuff')} == {'COCO-Stuff-10K'}
    with pytest.raises(UserError, match='the methods are SegViT'):
        LEDGER.select('swin')
    assert row('configs/p2t/p2t-ti_8xb128-300e_imagenet-224x224.py').published == {
        'Top 1 Accuracy': 79.8,
        'Top 5 Accuracy': 94.9,
    }
    with pytest.raises(UserError, match='did you mean p2t-ti_8xb128'):
        row('p2t-ti')
    with pytest.raises(UserError, match='never released'):
        row('segvit-v2_beitv2-l16_ade20k')


@pytest.fixture
def copy(tmp_path):
    """The ledger's files in a folder of their own."""
    shutil.copy(ROOT / 'model-index.yml', tmp_path)
    for folder in ('configs', 'results'):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('mIoU: 51.3', 'mIuO: 51.3', "'mIuO' is not known"),
        ('mIoU: 51.3', 'mIoU: much', "mIoU is 'much', expected a number"),
        ('Dataset: ADE20K, Split: validation, Metrics: {mIoU: 51.3', 'Dataset: ADE20K, Metrics: {mIoU: 51.3', 'lacks'),
        ('segvit/segvit_vit-b16_8', 'segvit/gone_8', 'there is no config'),
        ('53.0}, ', '53.0}, Tolerance: -1, ', 'above 0'),
        ('In Collection: SegViT', 'In Collection: SegVit', 'expected one of'),
        ('53.0}, ', '53.0}, Baseline: nothing, ', 'is no row'),
        ('53.0}, ', '53.0}, Reference: results/gone.json, ', 'there is no record'),
        ('Iterations: 160000', 'Rounds: 160000', 'neither Iterations nor Epochs'),
        ('53.0}, ', '53.0}, Certainty: sure, ', "Certainty is 'sure'"),
        ('SHA256: unknown', 'SHA256: abc', 'hexadecimal digits in quotes, or unknown'),
        ('    Weights:', '    Folder:', 'the Folder has no File'),
        ('Models:', 'Models: {', 'is no YAML'),
    ],
)
def test_a_wrong_metafile_is_named_with_the_key(copy, old, new, message):
    path = copy / 'configs/segvit/metafile.yml'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_ledger(copy)
    assert 'segvit' in str(caught.value)


def test_a_checkpoint_of_the_ledger_has_a_hash_or_says_that_it_is_unknown(copy):
    """And hashes in names are those of the ledger."""
    for entry in LEDGER.rows:
        assert entry.weights or not entry.sha256 or entry.folder, entry.name
        named = named_hash(Path(entry.weights or ''))
        assert named is None or (entry.sha256 or '').startswith(named), entry.name
    path = copy / 'configs/segvit/metafile.yml'
    text = path.read_text()
    path.write_text(text.replace('    SHA256: unknown\n', '', 1))
    with pytest.raises(UserError, match='no SHA256'):
        read_ledger(copy)


def test_every_released_checkpoint_is_known_with_its_licence():
    """Seven of SegViT, sixteen of P2T, of which twelve lie in folders, two of TNT, three of NesT and two of EoMT."""
    known = {}
    for entry in LEDGER.rows:
        if entry.weights or entry.folder:
            known.setdefault(entry.collection.name, []).append(entry)
            assert entry.collection.licence not in ('none', NOT_IN_SOURCES)
    assert {name: len(rows) for name, rows in known.items()} == {'SegViT': 7, 'P2T': 16, 'TNT': 2, 'NesT': 3, 'EoMT': 2}
    by_hand = [entry for entry in known['P2T'] if entry.folder]
    assert len(by_hand) == 12
    assert all(entry.file and entry.weights is None for entry in by_hand)


def test_figures_that_were_not_read_are_marked():
    assert row('nest-cifar-t_1xb192-300e_cifar100-32x32').certainty == 'second-hand'
    assert row('segvit_vit-b16_8xb2-160k_ade20k-512x512').certainty == 'read in the source'
    marked = {entry.name for entry in LEDGER.rows if entry.published and entry.certainty != 'read in the source'}
    shown = table_rows(PAGES['docs/model_zoo.md'])
    assert {name for name, (cells,) in shown.items() if cells.get('certainty')} == marked
    assert len(marked) == 3


def test_the_list_shows_source_certainty_checkpoint_and_licence():
    console = Console(width=2000, record=True, file=io.StringIO())
    console.print(rows_table(LEDGER))
    text = console.export_text()
    for title in ('source', 'certainty', 'checkpoint', 'licence'):
        assert title in text
    (line,) = [line for line in text.splitlines() if line.strip().startswith('segvit_vit-b16_8xb2')]
    for part in (
        'Tables 1 and 5',
        'read in the source',
        'resolve/main/ade_51.3.pth',
        'SHA-256 unknown',
        'non-commercial',
    ):
        assert part in line
    (line,) = [line for line in text.splitlines() if line.strip().startswith('sem-fpn_p2t-s_')]
    assert 'by hand: sem_fpn_p2t_s_ade20k_80k.pth from https://drive.google.com/drive/folders/' in line


def test_every_metric_has_a_name_that_an_evaluator_gives():
    """Names of the libraries' own metrics, typed from their documentation, and of mmvit_ext.FID."""
    known = {'mIoU', 'aAcc', 'mAcc', 'accuracy/top1', 'accuracy/top5', 'FID', 'coco_panoptic/PQ'}
    known |= {f'coco/{kind}_mAP{end}' for kind in ('bbox', 'segm') for end in ('', '_50', '_75', '_s', '_m', '_l')}
    assert {metric.key for metric in METRICS.values()} <= known


def test_the_ledger_is_found_without_being_told_where():
    assert find_root() == ROOT
