"""The base configs of the datasets: the recipe's numbers, and samples read through them from the mini dataset."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS

from mmvit_ext.datasets.mini import DATA_ROOTS, MINI_CLASSES, make_mini_dataset

FOLDER = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
#: Per file: layout, classes, crop, (longer, shorter) side of the training resize before its random factor.
RECIPES = {
    'ade20k_512x512': ('ade20k', 150, 512, (2048, 512)),
    'ade20k_640x640': ('ade20k', 150, 640, (2048, 640)),
    'coco-stuff10k_512x512': ('coco_stuff10k', 171, 512, (2048, 512)),
    'pascal-context-59_480x480': ('pascal_context', 59, 480, (520, 520)),
    'pascal-context_480x480': ('pascal_context', 60, 480, (520, 520)),
}


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    return make_mini_dataset(tmp_path_factory.mktemp('mini') / 'data', images=4, size=(60, 90))


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def config(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def dataset_of(config, loader, layout, mini):
    dataset = config[loader].dataset
    dataset.data_root = str(mini / DATA_ROOTS[layout])
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(dataset)


def step(pipeline, kind):
    (found,) = [transform for transform in pipeline if transform['type'] == kind]
    return found


def test_every_base_config_is_listed_here():
    assert {path.stem for path in FOLDER.glob('*.py')} == RECIPES.keys()


def test_the_recipe_stands_in_the_config(name, config):
    _, classes, crop, scale = RECIPES[name]
    assert config.crop_size == (crop, crop)
    assert config.num_classes == classes
    resize = step(config.train_pipeline, 'RandomResize')
    assert (resize.scale, resize.ratio_range, resize.keep_ratio) == (scale, (0.5, 2.0), True)
    cut = step(config.train_pipeline, 'RandomCrop')
    assert (cut.crop_size, cut.cat_max_ratio) == ((crop, crop), 0.75)
    names = [transform['type'] for transform in config.train_pipeline]
    assert names[4:] == ['RandomFlip', 'PhotoMetricDistortion', 'PackSegInputs']
    for pipeline in (config.train_pipeline, config.test_pipeline):
        labels = step(pipeline, 'mmvit_ext.LoadSegAnnotations')
        assert (labels.num_classes, labels.reduce_zero_label) == (
            classes,
            config.train_dataloader.dataset.reduce_zero_label,
        )
    assert config.train_dataloader.batch_size == 2
    assert config.train_dataloader.sampler.type == 'InfiniteSampler'
    assert config.val_evaluator.type == 'IoUMetric'
    assert config.test_dataloader == config.val_dataloader


def test_scales_of_test_time_augmentation(name, config):
    resizes, flips, *_ = config.tta_pipeline[1].transforms
    if 'pascal' in name:
        # 520 times the ratio, but never below the crop of 480.
        assert [resize.scale for resize in resizes] == [480, 480, 520, 650, 780, 910]
    else:
        short = config.img_scale[1]
        ratios = (0.5, 0.75, 1, 1.25, 1.5, 1.75)
        assert [resize.scale for resize in resizes] == [(2048 * r, short * r) for r in ratios]
    assert [flip.prob for flip in flips] == [0, 1]


def test_a_dumped_config_reads_back_equal(config, tmp_path):
    config.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == config.to_dict()


def test_the_real_dataset_class_reads_the_mini_dataset_after_changing_data_root_alone(name, config, mini):
    layout, classes, crop, _ = RECIPES[name]
    field = {'ade20k': 'ade', 'coco_stuff10k': 'coco_stuff', 'pascal_context': 'context'}[layout]
    shift = 0 if name == 'pascal-context_480x480' else 1
    expected = {getattr(cls, field) - shift for cls in MINI_CLASSES.values()} | {255 if shift else 0}
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = dataset_of(config, loader, layout, mini)
        assert len(dataset) == 4
        assert len(dataset.metainfo['classes']) == classes
        seen = set()
        for index in range(4):
            sample = dataset[index]
            labels = sample['data_samples'].gt_sem_seg.data.numpy()[0]
            seen |= set(np.unique(labels).tolist())
            height, width = sample['inputs'].shape[1:]
            if loader == 'train_dataloader':
                assert (height, width) == labels.shape
                assert max(height, width) <= crop
            else:
                # Predictions are compared at the size of the original picture.
                assert labels.shape == sample['data_samples'].ori_shape
                assert min(height, width) == config.img_scale[1]
        assert seen <= expected
        if loader == 'val_dataloader':
            assert seen == expected


def test_test_time_augmentation_yields_six_scales_and_two_flips(name, config, mini):
    layout = RECIPES[name][0]
    config.val_dataloader.dataset.pipeline = config.tta_pipeline
    sample = dataset_of(config, 'val_dataloader', layout, mini)[0]
    assert len(sample['inputs']) == 12
    assert [item.flip for item in sample['data_samples']] == [False, True] * 6
    assert min(sample['inputs'][-1].shape[1:]) == int(config.img_scale[1] * 1.75)
