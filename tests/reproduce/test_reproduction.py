"""The whole way from an address in the ledger to a figure in the pages, without the internet."""

import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmvit_ext.checkpoints import convert
from mmvit_ext.datasets.mini import make_mini_dataset
from mmvit_ext.engine.errors import UserError
from mmvit_ext.models import P2T
from mmvit_ext.reproduce import Ledger, dataset_layout, read_ledger
from mmvit_ext.reproduce.dataset_layout import LAYOUTS, Layout, check_layout, draw_mini_data
from mmvit_ext.reproduce.evaluation import find_checkpoint, load_row_config
from mmvit_ext.reproduce.training import plan_training
from tests.reproduce.file_server import serving

ROOT = Path(__file__).parents[2]
NAME = 'p2t-golden_mini-imagenet'
SIZE, SHORTER = 128, 150
CLASSES = 1000
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
TRAIN, VAL = 40, 10

pytest.importorskip('mmpretrain')


@pytest.fixture(scope='module')
def command():
    """tools/reproduce.py as a module."""
    spec = importlib.util.spec_from_file_location('reproduce_command', ROOT / 'tools/reproduce.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    """A mini dataset that is smaller still."""
    return make_mini_dataset(tmp_path_factory.mktemp('data') / 'mini', images=TRAIN)


def images_of(root, split):
    """Paths and class numbers."""
    lines = (root / f'imagenet/meta/{split}.txt').read_text().split('\n')
    pairs = [line.rsplit(' ', 1) for line in lines if line]
    return [(root / 'imagenet' / split / name, int(number)) for name, number in pairs]


def network_input(path):
    """What the test pipeline should make of an image, written without the libraries."""
    image = Image.open(path).convert('RGB')
    factor = SHORTER / min(image.size)
    width, height = (SHORTER if side == min(image.size) else int(side * factor) for side in image.size)
    image = image.resize((width, height), Image.BICUBIC)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float64)
    return torch.from_numpy(((pixels - MEAN) / STD).transpose(2, 0, 1)).float()[None]


@pytest.fixture(scope='module')
def released(mini):
    """A checkpoint in the authors' names, and the accuracy of its network.

    The recorded network of the authors' code, with a classifier that knows the mean feature of each class.
    """
    record = torch.load(ROOT / 'tests/data/p2t_128.pt', weights_only=True)
    arch = {key: record['config'][key] for key in ('embed_dims', 'num_heads', 'depths', 'mlp_ratios')}
    backbone = P2T(arch, out_indices=(3,), drop_path_rate=0.0).eval()
    ours = convert(record['state_dict'], 'p2t')
    backbone.load_state_dict({name[9:]: value for name, value in ours.items() if name.startswith('backbone.')})

    def feature(path):
        with torch.no_grad():
            return backbone(network_input(path))[-1].mean(dim=(2, 3))[0]

    known = {}
    for path, number in images_of(mini, 'train'):
        known.setdefault(number, []).append(feature(path))
    weight, bias = torch.zeros(CLASSES, 64), torch.full((CLASSES,), -1e4)
    for number, features in known.items():
        mean = torch.stack(features).mean(dim=0)
        weight[number], bias[number] = mean, -mean.square().sum() / 2
    state = {**record['state_dict'], 'head.weight': weight, 'head.bias': bias}
    correct = [int((weight @ feature(path) + bias).argmax()) == number for path, number in images_of(mini, 'val')]
    file = io.BytesIO()
    torch.save(state, file)
    accuracy = 100 * sum(correct) / len(correct)
    assert 0 < accuracy < 100  # otherwise nearly everything would reach it
    return {'bytes': file.getvalue(), 'accuracy': accuracy, 'arch': arch}


CONFIG = """
_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/classification_runtime.py',
]
data_root = {root!r}
model = dict(
    backbone=dict(_delete_=True, type='mmvit_ext.P2T', arch={arch}, out_indices=(3,)), head=dict(in_channels=64)
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale={shorter})
test_pipeline[2].update(crop_size={size})
test_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
val_dataloader = test_dataloader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
auto_scale_lr = dict(base_batch_size=1024)
"""


@pytest.fixture
def make_ledger(tmp_path, mini, released, monkeypatch):
    """A checkout with one row, whose checkpoint is at an address."""
    monkeypatch.setitem(dataset_layout.__dict__, 'LAYOUTS', {**LAYOUTS, 'mini ImageNet': Layout(TRAIN, VAL, 'mini')})

    def make(address, published, sha256=None):
        root = tmp_path / 'checkout'
        shutil.copytree(ROOT / 'configs/_base_', root / 'configs/_base_', dirs_exist_ok=True)
        folder = root / 'configs/p2t'
        folder.mkdir(exist_ok=True)
        arch = {key: tuple(value) for key, value in released['arch'].items()}
        text = CONFIG.format(root=str(mini / 'imagenet'), arch=arch, shorter=SHORTER, size=SIZE)
        (folder / f'{NAME}.py').write_text(text)
        digits = sha256 or hashlib.sha256(released['bytes']).hexdigest()
        collection = {
            'Name': 'P2T',
            'Paper': {'Title': 'A paper', 'URL': 'https://example.org'},
            'README': 'configs/p2t/README.md',
            'Checkpoints': {'Where': 'on this machine', 'Licence': 'any', 'Converter': 'p2t'},
        }
        result = {'Task': 'Image Classification', 'Dataset': 'mini ImageNet', 'Split': 'validation'}
        model = {
            'Name': NAME,
            'In Collection': 'P2T',
            'Config': f'configs/p2t/{NAME}.py',
            'Metadata': {'Epochs': 1, 'Training Resources': '8 GPUs x 128 images'},
            'Weights': f'{address}/p2t_golden.pth',
            'SHA256': digits,
            'Results': [{**result, 'Metrics': {'Top 1 Accuracy': published}}],
        }
        content = {'Collections': [collection], 'Models': [model]}
        (folder / 'metafile.yml').write_text(json.dumps(content))  # which is YAML, too
        (root / 'model-index.yml').write_text('Import: [configs/p2t/metafile.yml]\n')
        (root / 'README.md').write_text('# Nothing\n')
        (folder / 'README.md').write_text('<!-- results: here -->\n<!-- results end -->\n')
        return read_ledger(root)

    return make


@pytest.fixture
def run(command, monkeypatch, tmp_path):
    """Calls the command on a ledger; its cache and work folders are the test's own."""

    def call(ledger, *arguments):
        monkeypatch.setattr(command, 'read_ledger', lambda: ledger)
        folders = ['--work-dir', str(tmp_path / 'work'), '--cache-dir', str(tmp_path / 'cache')]
        return command.main([NAME, *folders, *arguments])

    return call


def test_a_row_goes_from_its_address_to_the_page(make_ledger, run, released, tmp_path, capsys):
    accuracy = released['accuracy']
    with serving(released['bytes'], drop_after=[100_000, 70_001]) as server:
        ledger = make_ledger(server.address, round(accuracy + 0.1, 1))
        assert run(ledger, '--record') == 0
        assert server.ranges == [None, 'bytes=100000-', 'bytes=170001-']
    (path,) = (ledger.root / 'results').rglob('*.json')
    record = json.loads(path.read_text())
    digest = hashlib.sha256(released['bytes']).hexdigest()
    assert record['row'] == NAME
    assert record['metrics'] == {'Top 1 Accuracy': pytest.approx(accuracy)}
    assert record['expected'] == {'Top 1 Accuracy': round(accuracy + 0.1, 1)}
    assert record['verdict'] == 'reproduced'
    assert record['checkpoint']['sha256'] == digest
    assert record['checkpoint']['converter'] == 'p2t'
    assert record['dataset'] == {'name': 'mini ImageNet', 'split': 'validation', 'images': VAL}
    assert record['command'].startswith(f'python tools/reproduce.py {NAME}')
    assert record['hardware']['device'] == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert {'torch', 'mmvit_ext'} <= set(record['versions'])
    zoo = (ledger.root / 'docs/model_zoo.md').read_text()
    shown = f'[{record["metrics"]["Top 1 Accuracy"]}](../{path.relative_to(ledger.root).as_posix()})'
    assert shown in zoo
    assert 'not measured' not in zoo.split('## P2T')[1]
    assert path.name in (ledger.root / 'configs/p2t/README.md').read_text()
    assert json.loads((tmp_path / 'work/record_single.json').read_text()) == record
    # The server is gone: what was fetched is enough for a second time.
    assert run(ledger, '--offline') == 0
    assert 'verdict: reproduced' in capsys.readouterr().out


def test_a_miss_is_exit_code_1_and_is_recorded_as_one(make_ledger, run, released, tmp_path):
    with serving(released['bytes']) as server:
        ledger = make_ledger(server.address, round(released['accuracy'] + 0.3, 1))
        assert run(ledger) == 1
    record = json.loads((tmp_path / 'work/record_single.json').read_text())
    assert record['verdict'] == 'missed'
    assert record['difference'] == {'Top 1 Accuracy': pytest.approx(-0.3)}
    assert not (ledger.root / 'results').exists()


def test_wrong_bytes_never_reach_the_network(make_ledger, run, released, tmp_path, capsys):
    damaged = bytearray(released['bytes'])
    damaged[len(damaged) // 2] ^= 1
    with serving(bytes(damaged)) as server:
        ledger = make_ledger(server.address, 50.0, hashlib.sha256(released['bytes']).hexdigest())
        assert run(ledger) == 2
    assert 'SHA-256' in capsys.readouterr().err
    assert not list((tmp_path / 'cache').rglob('*.pth'))


def test_a_dataset_of_another_size_is_refused_before_a_download(make_ledger, run, released, monkeypatch, capsys):
    layouts = {**LAYOUTS, 'mini ImageNet': Layout(TRAIN, VAL + 1, 'draw it')}
    with serving(released['bytes']) as server:
        ledger = make_ledger(server.address, 50.0)
        monkeypatch.setattr(dataset_layout, 'LAYOUTS', layouts)
        assert run(ledger) == 2
        assert not server.ranges
    message = capsys.readouterr().err
    assert f'has {VAL} images for test' in message
    assert f'should have {VAL + 1}' in message
    assert 'draw it' in message


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
    next((mini_copy / 'coco/val2017').iterdir()).unlink()
    with pytest.raises(UserError, match='1 of 10'):
        check_layout(cfg, 'mini COCO', ['test'])


def test_the_layouts_are_those_that_the_base_configs_tell():
    """The numbers in the docstrings of the datasets' configs, which were typed from the datasets' pages."""
    for path in (ROOT / 'configs/_base_/datasets').glob('*.py'):
        counts = re.search(r'(\d+)\s+training\s+and\s+(\d+)\s+(?:validation|test)\s+images', path.read_text())
        if counts:
            assert any((layout.train, layout.test) == tuple(map(int, counts.groups())) for layout in LAYOUTS.values())


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
    found = find_checkpoint(row, None, folder, tmp_path)
    assert (found.path, found.origin) == (folder / 'iter_5.pth', 'trained here')
    with pytest.raises(UserError, match='not in the cache'):
        find_checkpoint(row, row.weights, folder, tmp_path, offline=True)
    with pytest.raises(UserError, match='does not exist'):
        find_checkpoint(row, 'gone.pth', folder, tmp_path)


def test_a_row_without_an_address_says_what_the_sources_say(tmp_path):
    ledger = read_ledger()
    with pytest.raises(UserError, match=r'github.com/yuhuan-wu/P2T.*--train'):
        find_checkpoint(ledger.find('p2t-ti_8xb128-300e_imagenet-224x224'), None, tmp_path / 'none', tmp_path)
    with pytest.raises(UserError, match='row of ours'):
        find_checkpoint(ledger.find('p2t-mini_1xb16-10e_mini-imagenet-96x96'), None, tmp_path / 'none', tmp_path)


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
    assert plan.options['param_scheduler.1.begin'] == 6_000
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
    from mmvit_ext.engine.config import load_config

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


SHORT = ('train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=16', 'train_cfg.val_interval=2')
"""An iteration instead of 150."""


@pytest.mark.slow
def test_three_commands_lead_from_the_list_to_a_record(mini, tmp_path):
    """As a newcomer types them, shortened to a few iterations."""
    if not (ROOT / '.git').exists():
        pytest.skip('a checkout is needed')
    name = 'p2t-mini_1xb16-10e_mini-imagenet-96x96'
    tool = [sys.executable, str(ROOT / 'tools/reproduce.py')]
    env = {'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1', 'HOME': str(tmp_path)}
    data = tmp_path / 'mini/imagenet'
    where = ['--data-root', str(data), '--work-dir', str(tmp_path / 'work')]

    def call(*arguments):
        done = subprocess.run(
            [*tool, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=600
        )
        return done.returncode, done.stdout + done.stderr

    code, text = call('--list', '--dataset', 'mini')
    assert code == 0
    assert name in text
    code, text = call(name, '--train', *where, '--seed', '0', '--cfg-options', *SHORT)
    assert code == 0, text
    assert 'The mini dataset was not there' in text
    code, text = call(name, *where)
    assert code in (0, 1), text
    record = json.loads((tmp_path / 'work/record_single.json').read_text())
    assert record['checkpoint']['origin'] == 'trained here'
    assert f'verdict: {record["verdict"]}' in text
    assert code == (record['verdict'] == 'missed')


@pytest.mark.parametrize('option', ['--record', '--update-pages'])
def test_an_installed_package_is_not_written_into(command, monkeypatch, capsys, option, tmp_path):
    installed = Ledger(tmp_path / 'mmvit_ext' / '.mim', read_ledger().rows)
    monkeypatch.setattr(command, 'read_ledger', lambda: installed)
    monkeypatch.setattr(command, 'evaluate_row', lambda *_, **__: pytest.fail('evaluated before it was refused'))
    assert command.main(['p2t-mini_1xb16-10e_mini-imagenet-96x96', option]) == 2
    assert 'checkout' in capsys.readouterr().err
