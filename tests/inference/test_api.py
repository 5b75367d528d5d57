"""The Python interface: what goes in, what comes out of each task, and the sentences for what does not fit."""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

import mmvit_ext
from mmvit_ext.config.zoo import task_config
from mmvit_ext.errors import UserError
from mmvit_ext.inference.predictor import Predictor
from tests.models.test_eomt import detector

ROOT = Path(__file__).parents[2]
TINY = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
NAMES = {'seg': 'sem-fpn_p2t-t', 'det': 'retinanet_p2t-t', 'inst': 'mask-rcnn_p2t-t', 'cls': 'p2t-t'}
SIZE = (40, 56)


def small(task, channels=3):
    """A config of the zoo with a backbone of a few channels."""
    cfg = Config(task_config(NAMES[task], 3, 64))
    model = cfg.model
    model.backbone.arch = TINY
    if 'in_channels' in (model.get('neck') or {}):
        model.neck.in_channels = list(TINY['embed_dims'])
    if task == 'cls':
        model.head.in_channels = 16
    for part in ('rpn', 'rcnn'):
        if part in (model.get('test_cfg') or {}):
            model.test_cfg[part].update(nms_pre=20, max_per_img=5, score_thr=0.0)
    if task == 'det':
        model.test_cfg.update(nms_pre=20, max_per_img=5, score_thr=0.0)
    if channels == 1:
        model.backbone.in_channels = 1
        model.data_preprocessor.update(mean=[120.0], std=[60.0], bgr_to_rgb=False)
        cfg.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    return cfg


@pytest.fixture(scope='module')
def models():
    """A loaded model of each task."""
    made = {}

    def load(task):
        if task not in made:
            torch.manual_seed(0)
            with pytest.warns(UserWarning, match='random weights'):
                made[task] = mmvit_ext.load(small(task))
        return made[task]

    return load


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize('task', NAMES)
def test_results_have_the_fields_of_their_task(task, models, photo):
    result = models(task).predict(photo)
    assert result.classes == ('class 0', 'class 1', 'class 2')
    assert np.array_equal(result.image, photo)
    if task == 'seg':
        assert result.labels.shape == SIZE
        assert result.boxes is result.scores is None
        assert np.array_equal(result.masks.argmax(0), result.labels)
    elif task == 'cls':
        assert sorted(result.labels) == [0, 1, 2]
        assert list(result.scores) == sorted(result.scores, reverse=True)
        assert result.scores.sum() == pytest.approx(1)
        assert result.boxes is result.masks is None
    else:
        count = len(result.labels)
        assert count
        assert result.scores.shape == (count,)
        assert result.boxes.shape == (count, 4)
        assert result.masks is None if task == 'det' else result.masks.shape == (count, *SIZE)
    picture = result.draw(score_threshold=0.0)
    assert all(edge >= least for edge, least in zip(picture.size, SIZE[::-1], strict=True))
    if task != 'cls':
        assert np.abs(np.asarray(picture.resize(SIZE[::-1]), int) - photo).max() > 20


@pytest.mark.parametrize('task', NAMES)
def test_all_ways_to_give_an_image_are_the_same_image(task, models, photo, tmp_path):
    model = models(task)
    path = tmp_path / 'a.png'
    Image.fromarray(photo).save(path)
    given = [path, str(path), Image.fromarray(photo), photo, photo.copy()[None], [photo], tmp_path]
    results = [model.predict(image) for image in given]
    results.append(model.predict(np.ascontiguousarray(photo[..., ::-1]), channel_order='bgr'))
    assert [isinstance(result, list) for result in results] == [False] * 4 + [True] * 3 + [False]
    flat = [result[0] if isinstance(result, list) else result for result in results]
    for result in flat[1:]:
        assert np.array_equal(result.labels, flat[0].labels)
        assert np.array_equal(result.image, flat[0].image)
    assert not np.array_equal(model.predict(photo, channel_order='bgr').image, photo)


def test_grey_and_transparent_images_fit_a_model_of_colours(models, photo):
    grey = np.repeat(photo[..., :1], 3, -1)
    clear = np.concatenate([photo, photo[..., :1]], -1)
    model = models('seg')
    assert np.array_equal(model.predict(photo[..., 0]).labels, model.predict(grey).labels)
    assert np.array_equal(model.predict(photo[..., :1]).labels, model.predict(grey).labels)
    assert np.array_equal(model.predict(clear).labels, model.predict(photo).labels)


def test_colours_fit_a_grey_model(photo):
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load(small('seg', channels=1))
    by_pillow = model.predict(Image.fromarray(photo))
    assert by_pillow.labels.shape == model.predict(photo).labels.shape == SIZE
    assert np.abs(by_pillow.image.astype(int) - model.predict(photo).image).max() <= 1


@pytest.mark.parametrize(
    ('image', 'sentence'),
    [
        (np.zeros((4, 4, 3), np.float32), 'the array is of float32: expected uint8'),
        (np.zeros((4, 4, 5), np.uint8), '5 channels and the model takes 3'),
        (np.zeros((4,), np.uint8), r'array of shape \(4,\) is no image'),
        (torch.zeros(3, 4, 4), 'a tensor is no image here'),
        ('absent.jpg', 'no image or folder absent.jpg'),
        (None, 'NoneType is no image'),
        (Image.fromarray(np.full((4, 4), 9000, np.uint16)), r'16 or more bits per pixel \(mode I;16'),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), r'16 or more bits per pixel \(mode F\)'),
    ],
)
def test_what_is_no_image_is_said(image, sentence, models):
    with pytest.raises(UserError, match=sentence):
        models('seg').predict(image)


def test_wrong_arguments_are_said(models, photo, tmp_path):
    with pytest.raises(UserError, match='did you mean segvit_vit-s'):
        mmvit_ext.load('segvit_vit-small')
    with pytest.raises(UserError, match='no config file'):
        mmvit_ext.load('absent.py')
    with pytest.raises(UserError, match='0 configs and 0 best checkpoints'):
        mmvit_ext.load(tmp_path)
    with pytest.raises(UserError, match="is none of timm's"):
        mmvit_ext.load('sem-fpn_p2t-t', 'timm')
    with pytest.raises(UserError, match='num_classes and size go with the name'):
        mmvit_ext.load(small('seg'), num_classes=2)
    with pytest.raises(UserError, match='must be above 0, got 0 and None'):
        mmvit_ext.load('p2t-t', num_classes=0)
    with pytest.raises(UserError, match='must be above 0, got None and 0'):
        mmvit_ext.load('p2t-t', size=0)
    generator = 'configs/nest/nest-generator-mini_1xb16-400_mini-imagenet-32x32.py'
    with pytest.raises(UserError, match='mmvit generate runs it'):
        mmvit_ext.load(ROOT / generator)
    with pytest.raises(UserError, match='channel_order'):
        models('seg').predict(photo, channel_order='hsv')


def test_features_are_those_of_the_backbone(models, photo):
    model = models('seg')
    maps = model.features(photo, [0, -1])
    assert [tuple(found.shape) for found in maps.values()] == [(1, 8, 16, 23), (1, 16, 2, 3)]
    assert len(model.features(photo)) == 4
    with pytest.raises(ValueError, match='indices must be numbers of blocks'):
        model.features(photo, 9)


def test_a_checkpoint_brings_its_weights_and_classes(models, photo, tmp_path):
    model = models('seg')
    path = tmp_path / 'a.pth'
    meta = {'dataset_meta': {'classes': ('sky', 'sea', 'land')}}
    torch.save({'state_dict': model.model.state_dict(), 'meta': meta}, path)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*random weights')
        again = mmvit_ext.load(small('seg'), path)
    assert again.classes == ('sky', 'sea', 'land')
    assert np.array_equal(again.predict(photo).labels, model.predict(photo).labels)
    direct = Predictor(small('seg'), path)
    assert np.array_equal(direct.segment(direct.load(photo[..., ::-1].copy()))[1], model.predict(photo).labels)


def panoptic(threshold):
    """An untrained model of stuff and things, without instances, as ``load`` gives it."""
    cfg = small('det')
    settings = dict(panoptic_on=True, instance_on=False, object_mask_thr=threshold, iou_thr=0.0)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load(cfg)
    found = detector(**settings).eval()
    found.data_preprocessor = model.model.data_preprocessor
    model._predictor.model = model.model = found
    model._predictor.classes = [f'class {index}' for index in range(5)]
    model._predictor.palette = [(50 * index, 255 - 50 * index, 0) for index in range(5)]
    return model


def test_a_panoptic_result_is_a_label_map_and_drawn_as_one(photo):
    """Two objects of class 1 and stuff of class 3; 5 is mmdet's mark for nothing, where there are as many classes."""
    model = panoptic(0.0)
    segments = torch.full(SIZE, 5)
    segments[:20, :20], segments[:20, 20:40], segments[20:, :20] = 1001, 2001, 3
    made = PixelData(sem_seg=segments[None])
    model.model.panoptic_fusion_head.panoptic_postprocess = lambda scores, masks: made
    result = model.predict(photo)
    assert np.array_equal(result.labels, np.select([segments % 1000 == 1, segments == 3], [1, 3], -1))
    assert result.boxes is result.scores is None
    assert result.masks.shape == (5, *SIZE)
    assert np.array_equal(result.draw(opacity=0, legend=False), photo)
    painted = np.asarray(result.draw(opacity=1, legend=False))
    known = result.labels >= 0
    assert np.array_equal(painted[known], np.array(result._predictor.palette)[result.labels[known]])
    assert result.draw().height > SIZE[0]


def test_a_shipped_panoptic_config_predicts_without_panopticapi(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, 'panopticapi', None)
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load(ROOT / 'configs/eomt/eomt-panoptic_vit-mini_1xb8-20e_mini-coco.py')
    result = model.predict(photo)
    assert (result.labels.shape, len(result.classes)) == (SIZE, 133)
    assert result.draw(legend=False).size == SIZE[::-1]


def test_an_image_without_panoptic_segments_is_drawn_as_it_is(photo, tmp_path):
    model = panoptic(1.0)
    result = model.predict(photo)
    assert (result.labels == -1).all()
    assert not result.masks.any()
    Image.fromarray(photo).save(tmp_path / 'a.png')
    picture, labels = model._predictor.draw(tmp_path / 'a.png', 0.5, True)
    assert labels is None
    assert np.array_equal(picture, photo)


def test_results_of_a_detector_leave_the_models_device(models, photo, monkeypatch):
    model, moved = models('inst'), []
    predicted = model._predictor(model._load(photo, 'rgb'))[1]
    monkeypatch.setattr(type(predicted), 'cpu', lambda sample: moved.append(sample) or predicted)
    assert model.predict(photo)._sample is predicted
    assert len(moved) == 1


def turned(photo, path):
    """A picture that its EXIF orientation turns by 90 degrees, as a file and open."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photo).save(path, exif=exif)
    return Image.open(path)


def test_an_open_picture_is_turned_as_its_file_is(models, photo, tmp_path):
    opened = turned(photo, tmp_path / 'a.png')
    by_path, by_picture = models('seg').predict(tmp_path / 'a.png'), models('seg').predict(opened)
    assert by_picture.image.shape == (*SIZE[::-1], 3)
    assert np.array_equal(by_picture.image, by_path.image)
    assert np.array_equal(by_picture.labels, by_path.labels)


def test_pictures_of_any_values_are_taken_as_their_files_are(photo, tmp_path):
    cfg = small('seg', channels=1)
    cfg.test_dataloader.dataset.pipeline[0].update(color_type='unchanged', imdecode_backend='pillow')
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load(cfg)
    wide = photo[..., 0].astype(np.uint16) * 256 + photo[..., 1]
    turned(wide, tmp_path / 'a.png')
    Image.fromarray(wide.astype(np.int32)).save(tmp_path / 'a.tif')
    for path, values in ((tmp_path / 'a.png', wide), (tmp_path / 'a.tif', wide.astype(np.int32))):
        opened, by_path = Image.open(path), model._predictor.load(path)['img']
        assert opened.mode in ('I;16', 'I')
        for image in (opened, values):
            found = model._load(image, 'rgb')['img']
            assert found.dtype == by_path.dtype == np.float32
            assert np.array_equal(found, by_path)
        assert np.array_equal(model.predict(opened).labels, model.predict(path).labels)


def test_a_name_is_a_model():
    with pytest.warns(UserWarning, match='random weights'):
        model = mmvit_ext.load('setr-naive_vit-t', num_classes=4, size=32)
    assert model.predict(np.zeros((30, 50, 3), np.uint8)).labels.shape == (30, 50)
    assert mmvit_ext.list_models('setr-naive_vit-?') == [f'setr-naive_vit-{size}' for size in 'tsbl']
    assert {'load', 'list_models'} <= set(dir(mmvit_ext))
    with pytest.raises(AttributeError, match='no attribute'):
        mmvit_ext.nothing  # noqa: B018


def test_a_path_from_home_is_one_image(models, photo, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    Image.fromarray(photo).save(tmp_path / 'a.png')
    assert models('seg').predict('~/a.png').labels.shape == SIZE


def test_without_a_checkpoint_pretrained_weights_are_left_out_and_the_config_stays(photo):
    cfg = small('seg')
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': 'absent.pth'}
    before = copy.deepcopy(cfg._cfg_dict)
    with pytest.warns(UserWarning, match='^the config has random weights'):
        assert mmvit_ext.load(cfg).predict(photo).labels.shape == SIZE
    assert cfg._cfg_dict == before


def test_a_checkpoint_that_fits_in_part_is_taken_if_asked(models, tmp_path):
    state = models('seg').model.state_dict()
    name = next(name for name in state if name.endswith('conv_seg.weight'))
    torch.save({'state_dict': {key: value for key, value in state.items() if key != name}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'allow_partial=True in Python'):
        mmvit_ext.load(small('seg'), tmp_path / 'a.pth')
    found = mmvit_ext.load(small('seg'), tmp_path / 'a.pth', allow_partial=True).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items() if key != name)
