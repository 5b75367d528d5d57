"""Images of other than three channels in every command that takes images: values, pictures, graphs, refusals."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvit_ext.cli import main
from mmvit_ext.datasets.distortions import PasteOccluder, RotateImage
from mmvit_ext.datasets.placement import find_placement
from mmvit_ext.inference.drawing import as_picture
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.models.backbones.base import image_channels
from tests.zoo import BACKBONES

SIZE = (45, 61)

SEGMENTOR = """
default_scope = 'mmseg'
load = dict(type='mmvit_ext.LoadImageFromFile', {load})
pipeline = [load, dict(type='mmvit_ext.LoadSegAnnotations', num_classes=3), dict(type='PackSegInputs')]
metainfo = dict(classes=('a', 'b', 'c'), palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]])
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='BaseSegDataset', data_root={root!r}, metainfo=metainfo, img_suffix={suffix!r}, pipeline=pipeline,
    data_prefix=dict(img_path='img', seg_map_path='ann')))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')
crop_size = (48, 48)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[{middle}], std=[{middle}], pad_val=0, seg_pad_val=255),
    backbone=dict(type='mmvit_ext.ViT', embed_dims=12, num_layers=1, num_heads=2, img_size=48, out_indices=(0,),
                  in_channels={channels}),
    decode_head=dict(type='mmvit_ext.ATMHead', in_channels=[12], in_index=[0], channels=12, num_heads=2, num_layers=1,
                     num_classes=3),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""
GREY = "color_type='grayscale'"
UNCHANGED = "color_type='unchanged'"
KINDS = {  # channels, loader, suffix, the values of the files
    'grey': (1, GREY, '.png', (1, np.uint8)),
    'grey of 16 bit': (1, UNCHANGED, '.png', (1, np.uint16)),
    'grey and alpha': (2, UNCHANGED, '.png', (2, np.uint8)),
    'four bands': (4, UNCHANGED, '.png', (4, np.uint8)),
    'colours of 16 bit': (3, f"{UNCHANGED}, imdecode_backend='cv2'", '.png', (3, np.uint16)),
    'six bands of 16 bit': (6, f"{UNCHANGED}, imdecode_backend='tifffile'", '.tif', (6, np.uint16)),
}


def scene(channels, dtype, seed=0):
    """A picture that is not the same when it is mirrored, (H, W) for one channel."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 200, (*SIZE, channels)) + np.arange(SIZE[1])[:, None] // 2
    pixels = (pixels * (np.iinfo(dtype).max // 255)).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


def save(path, pixels):
    if path.suffix == '.tif':
        tifffile = pytest.importorskip('tifffile')
        tifffile.imwrite(path, pixels, photometric='minisblack', planarconfig='contig')
    elif pixels.dtype == np.uint16:  # OpenCV writes what it is given as BGR
        cv2.imwrite(str(path), pixels)
    else:
        Image.fromarray(pixels).save(path)


def write_weights(config, scope='mmseg'):
    init_default_scope(scope)
    model = MODELS.build(Config.fromfile(config).model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.4, generator=generator)
    checkpoint = config.with_suffix('.pth')
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    return str(config), str(checkpoint)


@pytest.fixture
def project(tmp_path):
    """Writes images with labels, a config and a checkpoint of a kind."""

    def write(kind):
        channels, load, suffix, values = KINDS[kind]
        for folder in ('img', 'ann'):
            (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(2):
            save(tmp_path / 'img' / f'{number}{suffix}', scene(*values, seed=number))
            labels = np.arange(SIZE[1]) * 3 // SIZE[1] + np.zeros((SIZE[0], 1), int)
            Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'ann' / f'{number}.png')
        config = tmp_path / 'config.py'
        middle = 127.5 if values[1] == np.uint8 else 32767.5
        text = SEGMENTOR.format(load=load, root=str(tmp_path), suffix=suffix, middle=middle, channels=channels)
        config.write_text(text)
        return (*write_weights(config), str(tmp_path / 'img' / f'0{suffix}'))

    return write


def run(*arguments):
    return main.run([str(argument) for argument in arguments])


@pytest.mark.parametrize('kind', KINDS)
def test_every_command_takes_images_of_any_channels(kind, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, checkpoint, image = project(kind)
    assert run('test', config, checkpoint, '--work-dir', 'work', '--out', 'test.json') == 0
    assert 'mIoU' in json.loads((tmp_path / 'test.json').read_text())
    drawn = ('--opacity', '0', '--no-legend', '--save-mask')
    assert run('predict', config, checkpoint, image, '--out', 'predicted', *drawn) == 0
    picture = np.array(Image.open('predicted/overlays/0.png'))
    shown = scene(*KINDS[kind][3]).astype(np.float64).reshape(*SIZE, -1)
    if kind == 'colours of 16 bit':
        shown = shown[..., ::-1]
    shown = shown[..., [0, 0, 0]] if shown.shape[2] < 3 else shown[..., :3]
    if '16 bit' in kind:
        shown = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    if kind == 'six bands of 16 bit':
        shown = shown[..., ::-1]  # the first three of a loader are B, G, R
    np.testing.assert_allclose(picture, shown, atol=0.51)
    assert set(np.unique(Image.open('predicted/labels/0.png'))) <= {0, 1, 2}
    if kind not in ('grey', 'six bands of 16 bit'):
        return  # two kinds go through the other commands, which see the same arrays
    for method in ('tokens', 'atm'):
        options = ('--no-tsne', '--channels', '1') if method == 'tokens' else ('--classes', 'a')
        assert run('explain', method, config, checkpoint, image, '--out', 'explained', '--size', 32, *options) == 0
        assert (tmp_path / 'explained' / f'{method}.html').is_file()
    for change, option in (('rotation', '--angles'), ('occlusion', '--areas')):
        assert run('robustness', change, config, checkpoint, option, 0, 0.3, '--out', 'robust') == 0
        assert len(json.loads((tmp_path / 'robust' / f'{change}.json').read_text())[0]['y']) == 2
    assert run('check', config, '--split', 'test') == 0


CLASSIFIER = """
default_scope = 'mmpretrain'
pipeline = [
    dict(type='LoadImageFromFile', color_type={color!r}),
    dict(type='ResizeEdge', scale=40, edge='short'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs'),
]
data_preprocessor = dict(num_classes=3, mean=[127.5], std=[127.5], to_rgb=True)
test_dataloader = dict(dataset=dict(type='ImageNet', metainfo=dict(classes=('ape', 'bee', 'cat')), pipeline=pipeline))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
model = dict(
    type='ImageClassifier',
    backbone={backbone},
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16, topk=(1,)),
)
"""
NEST = """dict(type='mmvit_ext.NesT', img_size=32, patch_size=2, block_size=8, out_indices=-1, in_channels={channels},
                  arch=dict(embed_dims=(8, 16), num_heads=(2, 2), depths=(1, 1)))"""
SPFORMER = """dict(type='mmvit_ext.SPFormer', img_size=32, out_indices=-1, in_channels={channels},
                  arch=dict(embed_dims=16, num_heads=2, depths=(1,), sca_heads=2))"""


@pytest.mark.parametrize(('channels', 'color', 'seed'), [(1, 'grayscale', 3), (4, 'unchanged', 4)])
def test_classifiers_of_any_channels_are_explained_on_the_image_as_it_is(channels, color, seed, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    save(tmp_path / 'image.png', scene(channels, np.uint8, seed))
    for name, backbone, methods in (('nest', NEST, ('gradcat', 'cam', 'tokens')), ('sp', SPFORMER, ('superpixels',))):
        config = tmp_path / f'{name}.py'
        config.write_text(CLASSIFIER.format(color=color, backbone=backbone.format(channels=channels)))
        files = write_weights(config, 'mmpretrain')
        for method in methods:
            options = ('--no-tsne',) if method == 'tokens' else ()
            assert run('explain', method, *files, 'image.png', '--out', 'out', '--size', 61, *options) == 0
        if name == 'nest':
            assert run('predict', *files, 'image.png', '--out', 'out') == 0
            found = json.loads((tmp_path / 'out' / 'cam' / 'image.json').read_text())
            # ResizeEdge makes 40x54 pixels of it, of which the middle 32x32 are seen.
            assert found['seen of the image'] == pytest.approx([12.4, 4.5, 48.6, 40.5], abs=0.6)
            predictor = Predictor(Config.fromfile(files[0]), files[1], torch.device('cpu'))
            shown, _ = predictor.prepare('image.png')
            pixels = scene(channels, np.uint8, seed).reshape(*SIZE, -1)
            assert np.array_equal(shown, pixels[..., [0, 0, 0]] if channels == 1 else pixels[..., :3])


def test_the_superpixels_of_a_grey_model_are_measured_beside_patches_and_slic(project, tmp_path, monkeypatch):
    pytest.importorskip('skimage')
    monkeypatch.chdir(tmp_path)
    project('grey')
    text = (tmp_path / 'config.py').read_text()
    backbone = f"model['backbone'] = {SPFORMER.format(channels=1)}\n"
    head = "model['decode_head'] = dict(type='FCNHead', in_channels=16, channels=16, num_convs=0, concat_input=False, "
    (tmp_path / 'config.py').write_text(f'{text}\n{backbone}{head}num_classes=3)\n')
    files = write_weights(tmp_path / 'config.py')
    assert run('superpixels', *files, '--out', 'quality.json') == 0
    assert len(json.loads((tmp_path / 'quality.json').read_text())) == 6
    assert run('robustness', 'occlusion', *files, '--areas', 0.3, '--out', 'robust') == 0
    assert (tmp_path / 'robust' / 'occlusion_config.png').is_file()


def test_an_image_of_other_channels_than_the_model_is_refused_by_name(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, checkpoint, _ = project('four bands')
    save(tmp_path / 'other.png', scene(1, np.uint8))
    assert run('predict', config, checkpoint, 'other.png', '--out', 'out') == 2
    assert 'other.png has 1 channels as it is loaded and the model takes 4' in capsys.readouterr().err
    assert list((tmp_path / 'out').rglob('*.png')) == []


@pytest.mark.parametrize('name', BACKBONES)
def test_the_channels_of_every_backbone_are_known(name):
    row = BACKBONES[name]
    if row.needs_timm:
        pytest.importorskip('timm')
    for channels in (1, 2, 3, 4, 6):
        assert image_channels(row.build(**{**row.tiny, 'in_channels': channels})) == channels


@pytest.mark.parametrize('shape', [(31, 53), (31, 53, 1), (31, 53, 2), (31, 53, 4), (31, 53, 6)])
def test_placement_distortions_and_pictures_take_any_shape(shape):
    def cut(results):
        return {'img': np.flip(results['img'][3:24, 5:45], 1)}

    found = find_placement(cut, shape)
    assert found.scale == pytest.approx((-1, 1), abs=1e-2)
    assert found.to_image((0, 0, 40, 21)) == pytest.approx((5, 3, 45, 24), abs=0.3)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) * 257
    covered = PasteOccluder(0.3).transform({'img': image, 'img_path': 'x.png'})['img']
    mask = PasteOccluder(0.3).mask('x.png', shape[:2])
    assert covered.shape == shape
    assert np.array_equal(covered[~mask], image[~mask])
    assert covered[mask].max() > 255  # as bright as the image
    turned = RotateImage(180).transform({'img': image})['img']
    np.testing.assert_allclose(turned, image[::-1, ::-1], rtol=1e-4)
    picture = as_picture(image)
    assert (picture.shape, picture.dtype) == ((31, 53, 3), np.uint8)
    flat = image.reshape(31, 53, -1)
    first = flat[..., 0 if flat.shape[2] < 3 else 2] / 257  # red stands last of the loader's three
    np.testing.assert_allclose(picture[..., 0], first, atol=2.0)
