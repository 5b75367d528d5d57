"""The whole way from an address in the ledger to a figure in the pages, without the internet."""

import argparse
import ast
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmvit_ext.checks import layouts as dataset_layout
from mmvit_ext.checks.layouts import LAYOUTS, Layout, check_layout, draw_mini_data
from mmvit_ext.cli import reproduce as command
from mmvit_ext.cli.arguments import ConfigOptions
from mmvit_ext.cli.main import run_verb
from mmvit_ext.datasets.mini import make_mini_dataset
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, free_name
from mmvit_ext.reproduce import Ledger, read_ledger, rescore, training
from mmvit_ext.reproduce.estimate import Estimate
from mmvit_ext.reproduce.ledger import METRICS
from mmvit_ext.reproduce.records import Record
from mmvit_ext.reproduce.rescore import fetch_checkpoint
from mmvit_ext.reproduce.training import load_row_config, plan_training
from tests.reproduce.file_server import serving
from tests.reproduce.released import RELEASES

ROOT = Path(__file__).parents[2]
TRAIN, VAL = 40, 10

pytest.importorskip('mmpretrain')


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    """A mini dataset that is smaller still."""
    return make_mini_dataset(tmp_path_factory.mktemp('data') / 'mini', images=TRAIN)


@pytest.fixture(scope='module')
def releases(mini):
    """Checkpoints in the authors' names by method, each made once."""
    return functools.cache(lambda method: RELEASES[method](mini))


@pytest.fixture
def released(request, releases):
    """That of P2T, or of the method that a test names."""
    return releases(getattr(request, 'param', 'p2t'))


@pytest.fixture
def make_ledger(tmp_path, released, monkeypatch):
    """A checkout with one row, whose checkpoint is at an address."""
    layouts = {**LAYOUTS, released.dataset: Layout(TRAIN, VAL, 'mini')}
    monkeypatch.setattr(dataset_layout, 'LAYOUTS', layouts)

    def make(address, published):
        root = tmp_path / 'checkout'
        shutil.copytree(ROOT / 'configs/_base_', root / 'configs/_base_', dirs_exist_ok=True)
        folder = root / 'configs' / released.method
        folder.mkdir(exist_ok=True)
        config, readme = (f'configs/{released.method}/{name}' for name in (f'{released.row}.py', 'README.md'))
        (root / config).write_text(released.config)
        collection = {
            'Name': released.collection,
            'Paper': {'Title': 'A paper', 'URL': 'https://example.org'},
            'README': readme,
            'Checkpoints': {'Where': 'on this machine', 'Licence': 'any', 'Converter': released.method},
        }
        result = {'Task': released.task, 'Dataset': released.dataset, 'Split': 'validation'}
        model = {
            'Name': released.row,
            'In Collection': released.collection,
            'Config': config,
            'Metadata': {'Epochs': 1, 'Training Resources': '8 GPUs x 128 images'},
            'Weights': f'{address}/released.pth',
            'SHA256': released.sha256,
            'Results': [{**result, 'Metrics': {released.metric: published}}],
        }
        content = {'Collections': [collection], 'Models': [model]}
        (folder / 'metafile.yml').write_text(json.dumps(content))  # which is YAML, too
        (root / 'model-index.yml').write_text(f'Import: [configs/{released.method}/metafile.yml]\n')
        (root / 'README.md').write_text('# Nothing\n')
        (folder / 'README.md').write_text('<!-- results: here -->\n<!-- results end -->\n')
        return read_ledger(root)

    return make


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Calls the command on a ledger; its cache and work folders are the test's own."""

    def call(ledger, *arguments):
        monkeypatch.setattr(command, 'read_ledger', lambda: ledger)
        folders = ['--work-dir', str(tmp_path / 'work'), '--cache-dir', str(tmp_path / 'cache')]
        return run_verb('reproduce', [ledger.rows[0].name, *folders, *arguments])

    return call


@pytest.mark.parametrize('released', RELEASES, indirect=True)
def test_a_row_goes_from_its_address_to_the_page(make_ledger, run, released, tmp_path, capsys):
    published = round(released.value + 0.1, 1)
    first, second = len(released.bytes) // 2, len(released.bytes) // 3
    with serving(released.bytes, drop_after=[first, second]) as server:
        ledger = make_ledger(server.address, published)
        assert run(ledger, '--record') == 0
        assert server.ranges == [None, f'bytes={first}-', f'bytes={first + second}-']
    (path,) = (ledger.root / 'results').rglob('*.json')
    record = json.loads(path.read_text())
    assert record['row'] == released.row
    assert record['metrics'] == {released.metric: pytest.approx(released.value, abs=released.slack)}
    assert record['expected'] == {released.metric: published}
    assert record['verdict'] == 'reproduced'
    assert record['checkpoint']['sha256'] == released.sha256
    assert record['checkpoint']['converter'] == released.method
    assert record['dataset'] == {'name': released.dataset, 'split': 'validation', 'images': VAL}
    assert record['command'].startswith(f'python tools/reproduce.py {released.row}')
    assert record['hardware']['device'] == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert {'torch', 'mmvit_ext'} <= set(record['versions'])
    zoo = (ledger.root / 'docs/model_zoo.md').read_text()
    shown = f'[{record["metrics"][released.metric]}](../{path.relative_to(ledger.root).as_posix()})'
    assert shown in zoo
    assert 'not measured' not in zoo.split(f'## {released.collection}')[1]
    assert path.name in (ledger.root / f'configs/{released.method}/README.md').read_text()
    assert json.loads((tmp_path / 'work/record_single.json').read_text()) == record
    # The server is gone: what was fetched is enough for a second time.
    assert run(ledger, '--offline') == 0
    assert 'verdict: reproduced' in capsys.readouterr().out


def test_a_miss_is_exit_code_1_and_is_recorded_as_one(make_ledger, run, released, tmp_path):
    with serving(released.bytes) as server:
        ledger = make_ledger(server.address, round(released.value + 0.3, 1))
        assert run(ledger) == 1
    record = json.loads((tmp_path / 'work/record_single.json').read_text())
    assert record['verdict'] == 'missed'
    assert record['difference'] == {'Top 1 Accuracy': pytest.approx(-0.3)}
    assert not (ledger.root / 'results').exists()


def test_an_evaluation_in_several_processes_replaces_the_figures_of_the_last_one(
    make_ledger, run, released, tmp_path, monkeypatch
):
    seen = []

    def tool(ledger, name, files, processes, arguments, options):
        seen.append((name, processes, arguments))
        key = METRICS[released.metric].key
        with atomic_path(arguments[arguments.index('--out') + 1]) as file:
            file.write_text(json.dumps({key: 7}))
        return 0

    monkeypatch.setattr(rescore, 'process_count', lambda gpus: 2)
    monkeypatch.setattr(rescore, 'run_tool', tool)
    with serving(released.bytes) as server:
        ledger = make_ledger(server.address, 90.0)
        assert [run(ledger), run(ledger)] == [1, 1]
    assert [entry[:2] for entry in seen] == [('test', 2)] * 2
    assert all('--force' in arguments for *_, arguments in seen)


def test_wrong_bytes_never_reach_the_network(make_ledger, run, released, tmp_path, capsys):
    damaged = bytearray(released.bytes)
    damaged[len(damaged) // 2] ^= 1
    with serving(bytes(damaged)) as server:
        ledger = make_ledger(server.address, 50.0)
        assert run(ledger) == 2
    assert 'SHA-256' in capsys.readouterr().err
    assert not list((tmp_path / 'cache').rglob('*.pth'))


def test_a_dataset_of_another_size_is_refused_before_a_download(make_ledger, run, released, monkeypatch, capsys):
    layouts = {**LAYOUTS, 'mini ImageNet': Layout(TRAIN, VAL + 1, 'draw it')}
    with serving(released.bytes) as server:
        ledger = make_ledger(server.address, 50.0)
        monkeypatch.setattr(dataset_layout, 'LAYOUTS', layouts)
        assert run(ledger) == 2
        assert not server.ranges
    message = capsys.readouterr().err
    assert f'has {VAL} images for test' in message
    assert f'should have {VAL + 1}' in message
    assert 'draw it' in message


def test_a_record_out_of_place_is_named_before_a_download(make_ledger, run, released, capsys):
    with serving(released.bytes) as server:
        ledger = make_ledger(server.address, 50.0)
        record = next((ROOT / 'results').glob('*/*.json'))
        stray = ledger.root / 'results' / record.parent.name / record.name
        stray.parent.mkdir(parents=True)
        shutil.copy(record, stray)
        assert run(ledger, '--record') == 2
        assert not server.ranges
    assert f'{stray} is a record of' in capsys.readouterr().err


def test_offline_without_the_file_says_where_to_put_it(make_ledger, run, released, tmp_path, capsys):
    ledger = make_ledger('http://127.0.0.1:9', 50.0)
    assert run(ledger, '--offline') == 2
    assert str(tmp_path / 'cache') in capsys.readouterr().err


def test_a_checkpoint_of_another_network_fits_neither_way(make_ledger, run, tmp_path, capsys):
    torch.save({'stem.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    ledger = make_ledger('http://127.0.0.1:9', 50.0)
    assert run(ledger, '--checkpoint', str(tmp_path / 'other.pth')) == 2
    assert 'neither as it is' in capsys.readouterr().err


# Datasets


@pytest.fixture
def mini_copy(mini, tmp_path):
    shutil.copytree(mini, tmp_path / 'mini')
    return tmp_path / 'mini'


def row_config(name, data_root):
    ledger = read_ledger()
    return load_row_config(ledger, ledger.find(name), str(data_root), None)[0]


def test_a_missing_label_map_is_named_with_the_place_of_the_dataset(mini_copy, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.setattr(dataset_layout, 'LAYOUTS', {'mini ADE20K': Layout(TRAIN, VAL, 'here and there')})
    root = mini_copy / 'ade/ADEChallengeData2016'
    cfg = row_config('segvit_vit-ti16_1xb8-600_mini-ade20k-192x192', root)
    (count,) = check_layout(cfg, 'mini ADE20K', ['test'])
    assert (count.images, count.annotations, count.unit) == (VAL, VAL, 'label maps')
    victim = sorted((root / 'annotations/validation').iterdir())[3]
    victim.unlink()
    with pytest.raises(UserError, match=r'1 of 10 .*label.*here and there'):
        check_layout(cfg, 'mini ADE20K', ['test'])
    victim.write_bytes(b'')
    with pytest.raises(UserError, match=re.escape(victim.name)):
        check_layout(cfg, 'mini ADE20K', ['test'], sample=VAL)


def test_objects_of_coco_are_counted(mini_copy, monkeypatch):
    pytest.importorskip('mmdet')
    monkeypatch.setattr(dataset_layout, 'LAYOUTS', {'mini COCO': Layout(TRAIN, VAL, 'here')})
    cfg = row_config('mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco', mini_copy / 'coco')
    annotations = json.loads((mini_copy / 'coco/annotations/instances_val2017.json').read_text())
    (count,) = check_layout(cfg, 'mini COCO', ['test'])
    assert (count.images, count.annotations) == (VAL, len(annotations['annotations']))
    (count,) = check_layout(cfg, 'mini COCO', ['train'])
    assert count.images == TRAIN
    monkeypatch.setattr(dataset_layout, 'LAYOUTS', {'mini COCO': Layout(TRAIN, VAL + 3, 'here', val=VAL)})
    (count,) = check_layout(cfg, 'mini COCO', ['val'])
    assert count.images == VAL
    with pytest.raises(UserError, match='for test'):
        check_layout(cfg, 'mini COCO', ['test'])
    monkeypatch.setattr(dataset_layout, 'LAYOUTS', {'mini COCO': Layout(TRAIN, VAL, 'here')})
    next((mini_copy / 'coco/val2017').iterdir()).unlink()
    with pytest.raises(UserError, match='1 of 10'):
        check_layout(cfg, 'mini COCO', ['test'])


TELLING = {
    'ade20k_512x512': 'ADE20K',
    'ade20k_640x640': 'ADE20K',
    'bccd_240x320': 'BCCD',
    'camvid_392x518': 'CamVid',
    'cifar100_32': 'CIFAR-100',
    'cifar10_32': 'CIFAR-10',
    'cityscapes_1024x1024': 'Cityscapes',
    'coco-stuff10k_512x512': 'COCO-Stuff-10K',
    'coco_detection': 'COCO 2017',
    'coco_panoptic': 'COCO panoptic',
    'drive_256x256': 'DRIVE',
    'flowers102-tnt_384': 'Oxford Flowers-102',
    'imagenet_224': 'ImageNet-1K',
    'imagenette_128': 'Imagenette',
    'inat2019-tnt_384': 'iNaturalist 2019',
    'nuclei_256x256': 'nuclei',
    'pascal-context-59_480x480': 'PASCAL-Context (59 classes)',
    'pascal-context_480x480': 'PASCAL-Context (60 classes)',
    'pets-tnt_384': 'Oxford-IIIT Pets',
}
"""Names in the ledger of the datasets whose configs tell their numbers of images."""
ELSEWHERE = {
    *('ade20k-multiple32_512x512', 'camvid_280x378', 'camvid_288x384', 'cifar10-tnt_384', 'coco_instance'),
    *('imagenet-generation_64', 'imagenet-nest_224', 'imagenet-tnt_224', 'imagenet-tnt_384'),
}
"""Configs whose files are those of another one."""
WITHOUT_SPLITS = {
    *('coco128-panoptic_322x518', 'coco128-semantic_322x518', 'coco128_320x320', 'coco_things'),
    *('pascal-part-58-quality_224', 'voc2012-quality_224'),
}
"""Configs of the same images in training and tests, of tests alone, or of names of classes."""


def test_the_layouts_are_those_that_the_base_configs_tell():
    """The numbers in the docstrings of the datasets' configs, which were typed from the datasets' pages."""
    told = {}
    for path in (ROOT / 'configs/_base_/datasets').glob('*.py'):
        doc = ' '.join((ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').split())
        if counts := re.search(r'(\d+) training(?:, (\d+) validation)? and (\d+) (?:validation|test) images', doc):
            told[path.stem] = [number and int(number) for number in counts.groups()]
        else:
            assert path.stem in ELSEWHERE | WITHOUT_SPLITS, path
    assert told == {
        stem: [LAYOUTS[name].train, LAYOUTS[name].val, LAYOUTS[name].test] for stem, name in TELLING.items()
    }


def test_every_dataset_of_a_row_has_a_layout():
    assert {row.dataset for row in read_ledger().rows if row.config} <= set(LAYOUTS)


def test_the_mini_data_are_drawn_where_a_row_expects_them_and_nowhere_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr('mmvit_ext.datasets.mini.make_mini_dataset', lambda out: calls.append(Path(out)))
    assert draw_mini_data(tmp_path / 'mini/ade/ADEChallengeData2016')
    assert draw_mini_data(tmp_path / 'mini/imagenet')
    assert calls == [tmp_path / 'mini'] * 2
    (tmp_path / 'mini/imagenet').mkdir(parents=True)
    assert not draw_mini_data(tmp_path / 'mini/imagenet')
    with pytest.raises(UserError, match='expected a folder that ends in'):
        draw_mini_data(tmp_path / 'elsewhere')


# Checkpoints


def test_what_was_trained_here_comes_before_the_ledgers_address(tmp_path):
    ledger = read_ledger()
    row = ledger.find('tnt-s_8xb128-300e_imagenet-224x224')
    folder = tmp_path / 'work'
    folder.mkdir()
    state = {'state_dict': {'a': torch.zeros(1)}, 'meta': {'iter': 5}, 'optimizer': {}, 'message_hub': {}}
    torch.save(state, folder / 'iter_5.pth')
    found = fetch_checkpoint(row, None, folder, tmp_path)
    assert (found.path, found.origin) == (folder / 'iter_5.pth', 'trained here')
    with pytest.raises(UserError, match='not in the cache'):
        fetch_checkpoint(row, row.weights, folder, tmp_path, offline=True)
    with pytest.raises(UserError, match='does not exist'):
        fetch_checkpoint(row, 'gone.pth', folder, tmp_path)


def test_a_row_without_an_address_says_what_the_sources_say(tmp_path):
    ledger = read_ledger()
    with pytest.raises(UserError, match=r'github.com/huawei-noah/Efficient-AI-Backbones.*--train'):
        fetch_checkpoint(ledger.find('tnt-ti_8xb128-300e_imagenet-224x224'), None, tmp_path / 'none', tmp_path)
    by_hand = r'drive/folders/\S+: download sem_fpn_p2t_s_ade20k_80k.pth there in a browser and pass --checkpoint'
    with pytest.raises(UserError, match=by_hand):
        fetch_checkpoint(ledger.find('sem-fpn_p2t-s_8xb2-80k_ade20k-512x512'), None, tmp_path / 'none', tmp_path)
    with pytest.raises(UserError, match='row of ours'):
        fetch_checkpoint(ledger.find('p2t-mini_1xb8-450_mini-imagenet-96x96'), None, tmp_path / 'none', tmp_path)


# Training


def recipe(name):
    ledger = read_ledger()
    return Config.fromfile(ledger.root / ledger.find(name).config)


def test_a_recipe_on_its_own_gpus_is_left_as_it_is():
    plan = plan_training(recipe('segvit_vit-b16_8xb2-160k_ade20k-512x512'), 8)
    assert (plan.total, plan.base, dict(plan.options), plan.changes) == (16, 16, {}, ())


def test_a_quarter_of_the_gpus_has_a_quarter_of_the_rate_and_four_times_the_iterations():
    plan = plan_training(recipe('segvit_vit-b16_8xb2-160k_ade20k-512x512'), 2)
    assert plan.total == 4
    assert plan.options['train_cfg.max_iters'] == 640_000
    assert plan.options['param_scheduler.0.end'] == 6_000
    assert 'param_scheduler.1.begin' not in plan.options  # the decay begins with the first iteration
    assert plan.options['param_scheduler.1.end'] == 640_000
    text = ' '.join(plan.changes)
    assert 'total batch: 4 instead of 16' in text
    assert 'learning rate: 5e-06 instead of 2e-05' in text
    assert '--images-per-gpu 8 keeps' in text
    same = plan_training(recipe('segvit_vit-b16_8xb2-160k_ade20k-512x512'), 2, images_per_gpu=8)
    assert dict(same.options) == {'train_dataloader.batch_size': 8}
    assert same.changes == ('images per GPU: 8 instead of 2',)


def test_epochs_stay_and_only_a_warm_up_in_iterations_is_scaled():
    plan = plan_training(recipe('mask-rcnn_p2t-ti_fpn_1x_coco'), 4)
    assert {key: value for key, value in plan.options.items() if 'train_cfg' in key} == {}
    assert plan.options['param_scheduler.0.end'] == 1_000
    assert 'learning rate: 5e-05 instead of 0.0001' in plan.changes


def test_the_scaled_options_reach_the_config():
    """The dotted keys have to be those that --cfg-options takes."""
    from mmvit_ext.config.loading import load_config

    ledger = read_ledger()
    # One recipe of each kind is enough: the others inherit their schedules.
    for row in {(row.collection.name, row.task, row.mini): row for row in ledger.rows if row.config}.values():
        path = ledger.root / row.config
        plan = plan_training(load_config(path), 3)
        if not plan.options:
            continue
        cfg = load_config(path, dict(plan.options))
        again = plan_training(cfg, 3)
        assert again.options.keys() == plan.options.keys(), row.name
        if 'max_iters' in cfg.train_cfg:
            images = load_config(path).train_cfg.max_iters * plan.base
            assert cfg.train_cfg.max_iters * plan.total == pytest.approx(images, abs=plan.total)


SHORT = ('train_cfg.max_iters=1', 'train_dataloader.dataset.indices=16', 'default_hooks.checkpoint.interval=1')
"""An iteration instead of 450."""


@pytest.mark.slow
def test_three_commands_lead_from_the_list_to_a_record(run_tool, tmp_path, monkeypatch):
    """As a newcomer types them, shortened to a few iterations; the first one in a process of its own."""
    name = 'p2t-mini_1xb8-450_mini-imagenet-96x96'
    env = {'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1', 'HOME': str(tmp_path)}
    tool = [sys.executable, str(ROOT / 'tools/reproduce.py')]
    done = subprocess.run(
        [*tool, '--list', '--dataset', 'mini'], check=True, capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert name in done.stdout
    monkeypatch.setenv('HOME', str(tmp_path))
    where = ['--data-root', tmp_path / 'mini/imagenet', '--work-dir', tmp_path / 'work']
    code, text = run_tool('reproduce', name, '--train', *where, '--seed', '0', '--cfg-options', *SHORT)
    assert code == 0
    assert 'The mini dataset was not there' in text
    code, text = run_tool('reproduce', name, *where)
    assert code in (0, 1)
    record = json.loads((tmp_path / 'work/record_single.json').read_text())
    assert record['checkpoint']['origin'] == 'trained here'
    assert record['checkpoint']['seed'] == 0
    assert f'verdict: {record["verdict"]}' in text
    assert code == (record['verdict'] == 'missed')


@pytest.mark.parametrize('option', ['--record', '--update-pages'])
def test_an_installed_package_is_not_written_into(monkeypatch, capsys, option, tmp_path):
    installed = Ledger(tmp_path / 'mmvit_ext' / '.mim', read_ledger().rows)
    monkeypatch.setattr(command, 'read_ledger', lambda: installed)
    monkeypatch.setattr(command, 'evaluate_row', lambda *_, **__: pytest.fail('evaluated before it was refused'))
    assert run_verb('reproduce', ['p2t-mini_1xb8-450_mini-imagenet-96x96', option]) == 2
    assert 'checkout' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--train', '--record'], '--record has no effect with --train'),
        (['--train', '--checkpoint', 'a.pth'], '--checkpoint has no effect with --train'),
        (['--estimate', '--seed', '1'], '--seed has no effect with --estimate'),
        (['--images-per-gpu', '2'], '--images-per-gpu has no effect with an evaluation'),
        (['--amp'], '--amp has no effect with an evaluation'),
        (['--list', '--tta'], '--tta has no effect with --list'),
        (['--estimate', '--machines', '4', '0'], '--machines 0: expected 1 or more'),
    ],
)
def test_options_that_the_action_does_not_look_at_are_refused(options, sentence, capsys):
    assert run_verb('reproduce', ['segvit_vit-b16_8xb2-160k_ade20k-512x512', *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_second_record_of_a_day_stands_beside_the_first(tmp_path):
    first = free_name(tmp_path / 'a.json')
    first.write_text('1')
    second = free_name(tmp_path / 'a.json')
    second.write_text('2')
    assert [first.name, second.name, free_name(tmp_path / 'a.json').name] == ['a.json', 'a_2.json', 'a_3.json']


def test_options_reach_the_command_of_several_processes_as_they_are(tmp_path, monkeypatch):
    """Folders with spaces and commas, numbers, lists."""
    seen = []
    monkeypatch.setattr(training.subprocess, 'Popen', lambda command, **_: seen.append(command) or _Done())
    options = {'data_root': '/my data/a, b', 'train_cfg.max_iters': 3, 'crop': (4, 5), 'lr': 0.1, 'name': 'plain'}
    assert training.run_tool(read_ledger(), 'test', ['c.py'], 1, ['--out', 'o'], options) == 0
    (command,) = seen
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    found = parser.parse_args(command[command.index('--cfg-options') :]).cfg_options
    assert found == {**options, 'crop': [4, 5]}


class _Done:
    """A process that has ended."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def wait(self):
        return 0


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('/my data/ade', '/my data/ade'),
        ('"/a,b/ade"', '/a,b/ade'),
        ("'a b'", 'a b'),
        ('a,b', ['a', 'b']),
        ('[1, 2]', [1, 2]),
        ('"[1,2]"', [1, 2]),
        ('(1, 2)', (1, 2)),
        ('1, 2', [1, 2]),
        ('0.5', 0.5),
        ('None', None),
        ('True', True),
        ('"5"', 5),
    ],
)
def test_values_of_options_are_texts_with_spaces_or_what_mmengine_reads(text, value):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    assert parser.parse_args(['--cfg-options', f'key={text}']).cfg_options == {'key': value}


ROW = 'p2t-mini_1xb8-450_mini-imagenet-96x96'


@pytest.fixture
def handed_over(monkeypatch):
    """What the command hands to the functions behind it, by their names."""
    calls = {}

    def record(name, result):
        monkeypatch.setattr(command, name, lambda *given, **options: calls.update({name: (given, options)}) or result)

    plan = training.TrainingPlan(1, 8, 8, {}, ())
    record('estimate_row', Estimate('a', 'd', plan, (96, 96), 3600, 1.0, 2**30, 2**31, fits=True))
    facts = dict(row=ROW, scale='multi', command='', commit='', date='', seconds=1.0, versions={}, hardware={})
    facts |= dict(dataset={}, checkpoint={}, metrics={'Top 1 Accuracy': 7.0}, expected={}, difference={})
    record('evaluate_row', Record(**facts, tolerance=0.1, verdict='missed'))
    record('train_row', 5)
    record('write_pages', [])
    return calls


@pytest.mark.parametrize(
    ('options', 'given'),
    [
        ('', {}),
        ('--iterations 7 --images-per-gpu 4 --no-amp', {'iterations': 7, 'images_per_gpu': 4, 'amp': False}),
        ('--gpus 3 --amp --cfg-options a=1', {'gpus': 3, 'amp': True, 'cfg_options': {'a': 1}}),
    ],
)
def test_an_estimate_is_asked_for_as_the_options_say(options, given, handed_over, capsys):
    assert run_verb('reproduce', [ROW, '--estimate', '--machines', '1', '2', '4', *options.split()]) == 0
    ((ledger, row), found) = handed_over.pop('estimate_row')
    assert row == ledger.find(ROW)
    assert found == {'gpus': None, 'cfg_options': None, 'images_per_gpu': None, 'amp': None, **given}
    assert not handed_over
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith('on ')] == [
        'on this machine: 7.5 minutes',
        'on 2 of them: 3.8 minutes',
        'on 4 of them: 1.9 minutes',
    ]


def test_an_evaluation_and_a_training_are_asked_for_as_the_options_say(handed_over, capsys):
    shared = ['--gpus', '2', '--data-root', 'here', '--work-dir', 'there']
    places = {'gpus': 2, 'cfg_options': None, 'data_root': 'here', 'work_dir': 'there'}
    assert run_verb('reproduce', [ROW, '--tta', '--checkpoint', 'a.pth', '--offline', '--trust', *shared]) == 1
    (_, row), found = handed_over.pop('evaluate_row')
    assert row.name == ROW
    assert found.pop('command').endswith(f'{ROW} --tta --checkpoint a.pth --offline --trust {" ".join(shared)}')
    taken = {'multi_scale': True, 'checkpoint': 'a.pth', 'cache_dir': None, 'offline': True, 'trust': True}
    assert found == places | taken
    assert 'multi scale' in capsys.readouterr().out
    assert run_verb('reproduce', [ROW, '--train', '--images-per-gpu', '4', '--seed', '3', *shared]) == 5
    (_, row), found = handed_over.pop('train_row')
    assert row.name == ROW
    assert found == places | {'images_per_gpu': 4, 'seed': 3, 'amp': None}
    assert not handed_over


def test_the_pages_are_written_on_request(handed_over, capsys):
    assert run_verb('reproduce', ['--update-pages']) == 0
    ((ledger,), options) = handed_over.pop('write_pages')
    assert (ledger.root, options) == (ROOT, {})
    assert not handed_over
    assert 'all pages are up to date' in capsys.readouterr().out
