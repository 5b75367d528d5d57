"""The base configs of the datasets: the recipe's numbers, and samples read through them from the mini dataset."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmvit_ext.checks.before_run import check_datasets
from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.mini import DATA_ROOTS, MINI_CLASSES, make_mini_dataset
from mmvit_ext.errors.user_error import UserError
from tests.config_tools import write_cifar, write_fine_grained

FOLDER = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
#: Per segmentation file: layout, classes, crop, (longer, shorter) side of the training resize before its random factor.
RECIPES = {
    'ade20k_512x512': ('ade20k', 150, 512, (2048, 512)),
    'ade20k-multiple32_512x512': ('ade20k', 150, 512, (2048, 512)),
    'ade20k_640x640': ('ade20k', 150, 640, (2048, 640)),
    'coco-stuff10k_512x512': ('coco_stuff10k', 171, 512, (2048, 512)),
    'pascal-context-59_480x480': ('pascal_context', 59, 480, (520, 520)),
    'pascal-context_480x480': ('pascal_context', 60, 480, (520, 520)),
}
DETECTION = ('coco_detection', 'coco_instance')
CLASSIFICATION = ('imagenet_224', 'imagenet-tnt_224', 'imagenet-nest_224')
GENERATION = 'imagenet-generation_64'
CIFAR = ('cifar10_32', 'cifar100_32')
TRANSFER = ('imagenet-tnt_384', 'cifar10-tnt_384')
#: Classes, and images of training and test where each list of the dataset has four.
FINE_GRAINED = {'flowers102-tnt_384': (102, 8, 4), 'pets-tnt_384': (37, 8, 4), 'inat2019-tnt_384': (1010, 8, 4)}
#: What superpixels are measured on; tests/tools/test_superpixel_commands.py reads them.
QUALITY = ('voc2012-quality_224', 'pascal-part-58-quality_224')


#: Small sets of photographs; tests/test_configs.py trains on each layout.
PHOTOGRAPHS = (
    'bccd_240x320',
    'camvid_280x378',
    'camvid_288x384',
    'camvid_392x518',
    'cityscapes_1024x1024',
    'coco128_320x320',
    'coco128-semantic_322x518',
    'coco_things',
    'drive_256x256',
    'imagenette_128',
    'nuclei_256x256',
)
#: What needs panopticapi; tests/test_configs.py trains on it.
PANOPTIC = ('coco_panoptic', 'coco128-panoptic_322x518')


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    return make_mini_dataset(tmp_path_factory.mktemp('mini') / 'data', images=4, size=(60, 90))


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def config(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def dataset_of(config, loader, layout, mini, scope='mmseg'):
    dataset = config[loader].dataset
    dataset.data_root = str(mini / DATA_ROOTS[layout])
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(dataset)


def step(pipeline, kind):
    (found,) = [transform for transform in pipeline if transform['type'] == kind]
    return found


def test_every_base_config_is_listed_here():
    assert {path.stem for path in FOLDER.glob('*.py')} == {
        *(
            *RECIPES,
            *DETECTION,
            *CLASSIFICATION,
            *CIFAR,
            *TRANSFER,
            *FINE_GRAINED,
            *QUALITY,
            *PHOTOGRAPHS,
            *PANOPTIC,
            GENERATION,
        )
    }


def test_images_for_generators_are_squares_of_64_pixels_flipped_in_training_alone(mini):
    config = Config.fromfile(FOLDER / f'{GENERATION}.py')
    kinds = {}
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = dataset_of(config, loader, 'imagenet', mini, 'mmpretrain')
        assert {tuple(dataset[index]['inputs'].shape) for index in range(4)} == {(3, 64, 64)}
        kinds[loader] = [step['type'] for step in config[loader].dataset.pipeline]
    assert set(kinds['train_dataloader']) - set(kinds['val_dataloader']) == {'RandomFlip'}
    assert config.val_evaluator.mirror


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
        # What the labels mean is said by the head and the dataset alone.
        assert set(step(pipeline, 'mmvit_ext.LoadSegAnnotations')) == {'type'}
    assert config.train_dataloader.batch_size == 2
    assert config.train_dataloader.sampler.type == 'InfiniteSampler'
    assert config.val_evaluator.type == 'IoUMetric'
    assert config.test_dataloader == config.val_dataloader


def test_scales_of_test_time_augmentation(name, config):
    resizes, flips, *_ = config.tta_pipeline[1].transforms
    if 'pascal' in name:
        # 520 times the ratio, but never below the crop of 480.
        assert [resize.scale for resize in resizes] == [480, 480, 520, 650, 780, 910]
    elif 'coco-stuff' in name:
        # 512 times the ratio, but never below the crop of 512, as the authors' `min_size` has it.
        assert [resize.scale for resize in resizes] == [512, 512, 512, 640, 768, 896]
    else:
        short = config.img_scale[1]
        ratios = (0.5, 0.75, 1, 1.25, 1.5, 1.75)
        assert [resize.scale for resize in resizes] == [(2048 * r, short * r) for r in ratios]
    assert [flip.prob for flip in flips] == [0, 1]


@pytest.mark.parametrize('name', [*RECIPES, *DETECTION, *CLASSIFICATION, *CIFAR, *TRANSFER, *FINE_GRAINED, GENERATION])
def test_a_dumped_config_reads_back_equal(name, tmp_path):
    config = Config.fromfile(FOLDER / f'{name}.py')
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


def test_sides_of_test_images_are_rounded_up_to_whole_strides(mini):
    """By less than a stride, from what keeping the ratio gives."""
    whole = dataset_of(Config.fromfile(FOLDER / 'ade20k-multiple32_512x512.py'), 'val_dataloader', 'ade20k', mini)
    plain = dataset_of(Config.fromfile(FOLDER / 'ade20k_512x512.py'), 'val_dataloader', 'ade20k', mini)
    rounded = 0
    for index in range(len(whole)):
        sides = whole[index]['inputs'].shape[1:]
        before = plain[index]['inputs'].shape[1:]
        assert sides == tuple(-(-side // 32) * 32 for side in before)
        rounded += sides != before
    assert rounded > 0


def test_test_time_augmentation_yields_six_scales_and_two_flips(name, config, mini):
    layout = RECIPES[name][0]
    config.val_dataloader.dataset.pipeline = config.tta_pipeline
    sample = dataset_of(config, 'val_dataloader', layout, mini)[0]
    assert len(sample['inputs']) == 12
    assert [item.flip for item in sample['data_samples']] == [False, True] * 6
    assert min(sample['inputs'][-1].shape[1:]) == int(config.img_scale[1] * 1.75)


# COCO


@pytest.fixture(params=DETECTION)
def detection(request):
    pytest.importorskip('mmdet')
    return request.param


def test_the_recipe_of_detection_stands_in_the_config(detection):
    config = Config.fromfile(FOLDER / f'{detection}.py')
    masks = detection == 'coco_instance'
    assert config.num_classes == 80
    for pipeline, at in ((config.train_pipeline, 1), (config.test_pipeline, 2)):
        resize = step(pipeline, 'Resize')
        assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)
        labels = pipeline[at]
        assert (labels.type, labels.with_bbox, labels.get('with_mask', False)) == ('LoadAnnotations', True, masks)
    assert step(config.train_pipeline, 'RandomFlip').prob == 0.5
    assert config.train_dataloader.dataset.pipeline == config.train_pipeline
    assert config.val_dataloader.dataset.pipeline == config.test_pipeline
    assert config.train_dataloader.batch_size == 2
    assert config.val_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
    assert config.test_dataloader == config.val_dataloader
    assert config.test_evaluator == config.val_evaluator


def test_changing_data_root_moves_the_annotations_of_the_metric_too(detection):
    config = load_config(FOLDER / f'{detection}.py', {'data_root': 'elsewhere'})
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.ann_file == 'elsewhere/annotations/instances_val2017.json'
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == 'elsewhere'


def test_the_real_coco_class_reads_the_mini_dataset(detection, mini):
    config = Config.fromfile(FOLDER / f'{detection}.py')
    things = {cls.coco for cls in MINI_CLASSES.values() if cls.coco is not None}
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = dataset_of(config, loader, 'coco', mini, 'mmdet')
        assert len(dataset.metainfo['classes']) == 80
        seen = set()
        for sample in (dataset[index] for index in range(len(dataset))):
            truth = sample['data_samples'].gt_instances
            height, width = sample['inputs'].shape[1:]
            assert min(height, width) == 800 or max(height, width) == 1333
            seen |= {dataset.cat_ids[label] for label in truth.labels.tolist()}
            if detection == 'coco_detection':
                assert 'masks' not in truth
                continue
            # Boxes are of the resized image in training and of the original one in testing, and so are the masks.
            assert (truth.masks.height, truth.masks.width) == (
                (height, width) if loader == 'train_dataloader' else sample['data_samples'].ori_shape
            )
            for mask, box in zip(truth.masks.masks, truth.bboxes.tensor.tolist(), strict=True):
                rows, columns = np.nonzero(mask)
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                # A mask's edge stays on the pixels of the original.
                np.testing.assert_allclose(extent, box, atol=truth.masks.height / sample['data_samples'].ori_shape[0])
        assert seen == things


# ImageNet


@pytest.fixture
def classification():
    pytest.importorskip('mmpretrain')
    return Config.fromfile(FOLDER / 'imagenet_224.py')


def test_the_recipe_of_classification_stands_in_the_config(classification):
    train, test = classification.train_pipeline, classification.test_pipeline
    assert step(train, 'RandomResizedCrop').scale == 224
    augment, erase = step(train, 'RandAugment'), step(train, 'RandomErasing')
    assert (augment.policies, augment.num_policies, augment.magnitude_level) == ('timm_increasing', 2, 9)
    assert (erase.erase_prob, erase.mode) == (0.25, 'rand')
    # Pictures are blue first here: what is painted into them has to be, too.
    assert erase.fill_color == [103.53, 116.28, 123.675]
    assert augment.hparams.pad_val == [104, 116, 124]
    assert (step(test, 'ResizeEdge').scale, step(test, 'CenterCrop').crop_size) == (256, 224)
    sampler = classification.train_dataloader.sampler
    assert (sampler.type, sampler.num_repeats) == ('RepeatAugSampler', 3)
    assert classification.train_dataloader.batch_size == 128


def test_the_real_imagenet_class_reads_the_mini_dataset(classification, mini):
    things = {cls.imagenet for cls in MINI_CLASSES.values() if cls.imagenet is not None}
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = dataset_of(classification, loader, 'imagenet', mini, 'mmpretrain')
        assert len(dataset.CLASSES) == 1000
        samples = [dataset[index] for index in range(len(dataset))]
        assert {tuple(sample['inputs'].shape) for sample in samples} == {(3, 224, 224)}
        assert {sample['data_samples'].gt_label.item() for sample in samples} == things


def test_simclr_jitter_and_no_repetition_are_all_that_nest_has_over_deit(classification):
    nest = Config.fromfile(FOLDER / 'imagenet-nest_224.py').to_dict()
    deit = classification.to_dict()
    steps = nest['train_dataloader']['dataset']['pipeline']
    assert steps[3]['type'] == 'RandAugment'
    jitter, grey = steps.pop(4), steps.pop(4)
    assert (jitter['type'], jitter['prob']) == ('RandomApply', 0.8)
    (colours,) = jitter['transforms']
    assert colours == dict(type='ColorJitter', brightness=0.24, contrast=0.24, saturation=0.24, hue=0.06)
    assert (grey['type'], grey['prob'], grey['keep_channels']) == ('RandomGrayscale', 0.2, True)
    assert grey['channel_weights'] == (0.114, 0.587, 0.299)  # of blue, green and red
    assert nest['train_dataloader'].pop('sampler') == dict(type='DefaultSampler', shuffle=True)
    deit['train_dataloader'].pop('sampler')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert nest[loader] == deit[loader]


def test_a_larger_test_image_and_random_interpolation_are_all_that_tnt_has_other_than_deit(classification):
    tnt = Config.fromfile(FOLDER / 'imagenet-tnt_224.py').to_dict()
    deit = classification.to_dict()
    for loader in ('val_dataloader', 'test_dataloader'):
        assert tnt[loader]['dataset']['pipeline'][1].pop('scale') == 248
        assert deit[loader]['dataset']['pipeline'][1].pop('scale') == 256
        assert tnt[loader] == deit[loader]
    steps, deits = (
        tnt['train_dataloader']['dataset'].pop('pipeline'),
        deit['train_dataloader']['dataset'].pop('pipeline'),
    )
    assert steps[1]['type'] == 'RandomChoice'
    bilinear, bicubic = steps.pop(1)['transforms']
    assert bicubic == deits[1:4]
    for step_, like in zip(bilinear, bicubic, strict=True):
        assert json.dumps(step_).replace('bilinear', 'bicubic') == json.dumps(like)
    assert 'bilinear' in json.dumps(bilinear[0])
    assert 'bilinear' in json.dumps(bilinear[2])
    assert steps == [deits[0], *deits[4:]]
    assert tnt['train_dataloader'] == deit['train_dataloader']


# CIFAR


@pytest.fixture(params=CIFAR)
def cifar(request):
    pytest.importorskip('mmpretrain')
    return Config.fromfile(FOLDER / f'{request.param}.py')


def test_the_real_cifar_class_reads_files_of_its_layout(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda *_: True)
    root = write_cifar(tmp_path)[cifar.dataset_type]
    classes = {'CIFAR10': 10, 'CIFAR100': 100}[cifar.dataset_type]
    files = {'CIFAR10': 5, 'CIFAR100': 1}[cifar.dataset_type]
    for loader, images in (('train_dataloader', 4 * files), ('val_dataloader', 4)):
        cifar[loader].dataset.data_root = str(root)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            dataset = DATASETS.build(cifar[loader].dataset)
        assert len(dataset) == images
        assert len(dataset.CLASSES) == classes == cifar.num_classes
        assert {tuple(dataset[index]['inputs'].shape) for index in range(images)} == {(3, 32, 32)}


@pytest.mark.parametrize('name', FINE_GRAINED)
def test_fine_grained_classes_are_read_from_the_files_of_their_datasets(name, tmp_path):
    """The highest class is the last one, and no image is both trained and tested on."""
    pytest.importorskip('mmpretrain')
    config, roots, seen = Config.fromfile(FOLDER / f'{name}.py'), write_fine_grained(tmp_path), []
    classes, *counts = FINE_GRAINED[name]
    for loader, images in zip(('train_dataloader', 'test_dataloader'), counts, strict=True):
        node = config[loader].dataset
        assert node.data_root == config.data_root
        node.data_root = str(roots[node.type])
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            dataset = DATASETS.build(node)
        assert len(dataset) == images
        assert dataset[0]['inputs'].shape == (3, 384, 384)
        seen.append({dataset.get_data_info(index)['img_path'] for index in range(images)})
        labels = [int(dataset.get_gt_labels()[index]) for index in range(images)]
        assert all(label < classes for label in labels)
        assert loader == 'test_dataloader' or max(labels) == classes - (2 if 'flowers' in name else 1)
    assert not seen[0] & seen[1]
    assert config.num_classes == classes


def test_cifar_is_painted_and_normalised_with_its_own_colours(cifar):
    """Which are red first here, in all places."""
    steps = cifar.train_dataloader.dataset.pipeline
    assert [step['type'] for step in steps] == [
        *('RandomCrop', 'RandomFlip', 'RandAugment', 'RandomErasing', 'PackInputs')
    ]
    assert steps[0].padding == 2
    assert (steps[3].fill_color, steps[3].fill_std) == (cifar.mean, cifar.std)
    assert steps[2].hparams.pad_val == [round(value) for value in cifar.mean]
    assert cifar.mean[0] > cifar.mean[1] > cifar.mean[2]


def test_cifar_is_never_downloaded(cifar, tmp_path, monkeypatch):
    def download(*_, **__):
        raise AssertionError('downloaded')

    monkeypatch.setattr('mmpretrain.datasets.cifar.download_and_extract_archive', download)
    for loader in ('train_dataloader', 'val_dataloader'):
        dataset = dict(cifar[loader].dataset, data_root=str(tmp_path))
        with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(RuntimeError, match=str(tmp_path)):
            DATASETS.build(dataset)


def test_a_missing_folder_of_cifar_is_named_before_anything_is_built(cifar, tmp_path):
    cifar.train_dataloader.dataset.data_root = str(tmp_path / 'absent')
    with pytest.raises(UserError, match=r'absent.*does not exist'):
        check_datasets(cifar, ['train'])
