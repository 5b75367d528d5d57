"""``tools/generate.py``, with a generator that ``tools/train.py`` has trained for two iterations."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from tests.config_tools import CONFIGS, small_config
from tests.tools.conftest import call_tool


def config_named(start):
    return next(path for path in CONFIGS if path.stem.startswith(start))


@pytest.fixture(scope='module')
def generator(tmp_path_factory):
    """Config and checkpoint of a trained generator, and the folder of its run."""
    root = tmp_path_factory.mktemp('generator')
    make_mini_dataset(root / 'data', images=4, size=(60, 80), seed=0)
    data = {'ImageNet': root / 'data' / DATA_ROOTS['imagenet']}
    cfg = small_config(config_named('nest-generator-mini'), data, root / 'run')
    cfg.custom_hooks = [dict(type='mmvit_ext.SampleHook', interval=1, num=5)]
    cfg.train_cfg.max_iters = 2
    config = root / f'{root.name}.py'
    cfg.dump(config)
    assert call_tool('train', [str(config), '--work-dir', str(root / 'run'), '--seed', '1']) == 0
    return config, root / 'run' / 'iter_2.pth', root / 'run'


def images(folder):
    return {path.name: np.array(Image.open(path)) for path in sorted((folder / 'samples').iterdir())}


def test_training_writes_grids_and_the_distance(generator):
    _, _, run = generator
    grids = sorted(path.name for path in run.rglob('vis_image/*.png'))
    assert grids == ['samples_0.png', 'samples_1.png', 'samples_2.png']
    (log,) = run.rglob('*.log')
    assert re.search(r'Iter\(val\).*FID: [\d.]+', log.read_text())
    assert 'weights:' not in log.read_text()  # none is loaded from a file
    assert 'total batch size 2 = 1 processes x 2 images x 1 accumulated, recipe 16' in log.read_text()


def test_an_image_depends_on_seed_and_number_alone(generator, run_tool, tmp_path):
    config, checkpoint, _ = generator
    for out, options in {'a': ['--num', '3'], 'b': ['--num', '5'], 'c': ['--num', '3', '--seed', '1']}.items():
        code, said = run_tool('generate', config, checkpoint, '--out', tmp_path / out, *options)
        assert code == 0, said
    three, five, other = (images(tmp_path / name) for name in 'abc')
    assert list(five) == [f'{number:05}.png' for number in range(5)]
    assert list(three) == list(five)[:3]
    assert all(np.array_equal(three[name], five[name]) for name in three)
    assert all(not np.array_equal(three[name], other[name]) for name in three)
    assert three['00000.png'].shape == (32, 32, 3)
    grid = np.array(Image.open(tmp_path / 'b' / 'grid.png'))
    assert grid.shape == (36, 5 * 34 + 2, 3)
    assert np.array_equal(grid[2:34, 36:68], five['00001.png'])


def test_columns_of_the_grid_can_be_chosen(generator, run_tool, tmp_path):
    config, checkpoint, _ = generator
    run_tool('generate', config, checkpoint, '--out', tmp_path / 'out', '--num', '4', '--columns', '2')
    assert Image.open(tmp_path / 'out' / 'grid.png').size == (70, 70)


def test_test_command_measures_the_distance(generator, run_tool, tmp_path):
    config, checkpoint, _ = generator
    code, said = run_tool('test', config, checkpoint, '--out', tmp_path / 'metrics.json')
    assert code == 0, said
    assert '"FID"' in (tmp_path / 'metrics.json').read_text()


def test_training_goes_on_from_its_checkpoint(generator, run_tool, tmp_path):
    config, checkpoint, _ = generator
    options = ['--resume', checkpoint, '--cfg-options', 'train_cfg.max_iters=3', 'train_cfg.val_interval=5']
    code, said = run_tool('train', config, '--work-dir', tmp_path / 'run', *options)
    assert code == 0, said
    state = torch.load(tmp_path / 'run' / 'iter_3.pth', map_location='cpu', weights_only=False)
    assert int(state['state_dict']['average.steps']) == 3
    assert set(state['optimizer']) == {'generator', 'discriminator'}


def test_mixed_precision_is_refused_with_a_way_out(generator, run_tool, tmp_path):
    config, _, _ = generator
    code, said = run_tool('train', config, '--work-dir', tmp_path / 'run', '--amp')
    assert code == 2
    assert '--amp works with one optimizer, the config has discriminator, generator: set' in said


def test_a_config_without_generator_is_refused(generator, run_tool, tmp_path):
    config = config_named('nest-mini')
    code, said = run_tool('generate', config, generator[1], '--out', tmp_path / 'out')
    assert code == 2
    assert 'describes a ImageClassifier, which generates no images: expected' in said
    assert 'configs/nest/nest-generator_8xb32-1000e_imagenet-64x64.py' in said
    assert not (tmp_path / 'out').exists()


def test_a_checkpoint_of_something_else_is_refused(generator, run_tool, tmp_path):
    config, _, run = generator
    code, said = run_tool('generate', config, run / 'extractor.pth', '--out', tmp_path / 'out')
    assert code == 2
    assert re.search(r'extractor\.pth.* 0 of \d+ parameters', said)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--num', '0'], '--num must be 1 to 1000000, got 0'),
        (['--seed', '-1'], '--seed must be 0 or more'),
        (['--columns', '0'], '--columns at least 1'),
    ],
)
def test_wrong_arguments_are_named(generator, run_tool, tmp_path, options, message):
    code, said = run_tool('generate', *generator[:2], '--out', tmp_path / 'out', *options)
    assert code == 2
    assert message in said
