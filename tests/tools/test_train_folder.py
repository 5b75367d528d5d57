"""`mmvit train FOLDER`: from images and annotations to a config, a trained model and pictures of its predictions."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

import torch
from mmdet.structures import DetDataSample

import mmvit_ext
from mmvit_ext.cli.export import trained_size
from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.config.writing import Name, config_text
from mmvit_ext.engine import own_data
from tests.folder_layouts import BOXES, LAYOUTS, voc_xml

COUNT = 6
NAMES = ('ground', 'square')


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whether weights could be downloaded is for a test to say."""
    monkeypatch.setattr(own_data, '_unreachable', lambda tag: 'pretrained weights cannot be downloaded (no network)')


def draw(root: Path, kind: str, channels: int = 3) -> Path:
    """A few pictures of a bright square, with the annotations of a kind."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(COUNT):
        height, width = (48, 64) if number % 2 else (64, 56)
        pixels = generator.integers(0, 90, (height, width, channels), dtype=np.uint8)
        left, top = (int(place) for place in generator.integers(2, 20, 2))
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + 24, left : left + 24] = 1
        pixels[mask == 1] += 140
        folder = root / ('images' if kind != 'classes' else NAMES[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze()).save(folder / f'{number}.png')
        if kind == 'masks':
            (root / 'masks').mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / 'masks' / f'{number}.png')
        images.append(dict(id=number + 1, file_name=f'{number}.png', height=height, width=width))
        corners = [left, top, left + 24, top, left + 24, top + 24, left, top + 24]
        annotation = dict(id=number + 1, image_id=number + 1, category_id=1, iscrowd=0, area=576)
        annotation |= dict(bbox=[left, top, 24, 24], **(dict(segmentation=[corners]) if kind == 'polygons' else {}))
        annotations.append(annotation)
    if kind == 'masks':
        (root / 'classes.txt').write_text('\n'.join(NAMES))
    if kind in ('boxes', 'polygons'):
        content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='square')])
        (root / 'annotations.json').write_text(json.dumps(content))
    return root


KINDS = {'masks': 'seg', 'boxes': 'det', 'polygons': 'inst', 'classes': 'cls'}
MODELS = {'masks': 'sem-fpn', 'boxes': 'faster-rcnn', 'polygons': 'mask-rcnn', 'classes': ''}


@pytest.mark.parametrize('kind', KINDS)
def test_a_folder_becomes_pictures_of_predictions(kind, run_tool, tmp_path):
    draw(tmp_path / 'photos', kind)
    code, output = run_tool('train', 'photos', '--epochs', 1, '--size', 64, '--batch-size', 2)
    assert code == 0
    assert f'model {MODELS[kind]}_p2t-mini'.replace(' _', ' ') in output
    assert 'not certain: pretrained weights cannot be downloaded' in output
    words = shlex.split(next(line for line in output.splitlines() if line.startswith('see it: ')))
    assert words[2:4] == ['mmvit', 'predict']
    assert run_tool('predict', *words[4:])[0] == 0
    pictures = sorted((tmp_path / 'work_dirs/photos/pictures/overlays').glob('*.png'))
    assert len(pictures) == (COUNT if kind != 'classes' else COUNT // 2)
    image = next((tmp_path / 'photos').rglob('*.png'))
    result = mmvit_ext.load(tmp_path / 'work_dirs/photos').predict(image)
    assert result.classes == (('square',) if KINDS[kind] in ('det', 'inst') else NAMES)


MODEL_NAMES = {'masks': ('eomt_vit-s', 'segvit_vit-s', 'sem-fpn_p2t-mini'), 'classes': ('vit-s', 'p2t-mini')}


@pytest.mark.parametrize('kind', MODEL_NAMES)
def test_a_written_config_states_the_size_that_a_graph_is_exported_with(kind, run_tool, tmp_path):
    draw(tmp_path / 'photos', kind)
    for model in MODEL_NAMES[kind]:
        options = ('--model', model, '--size', 64, '--batch-size', 2, '--checkpoint', 'none', '--work-dir', model)
        assert run_tool('train', 'photos', *options, '--dry-run')[0] == 0
        cfg = load_config(next((tmp_path / model / 'setup').glob('*.py')))
        assert trained_size(cfg) == (cfg.edge, cfg.edge)
    prepare_scope(cfg)
    torch.save(build_model(cfg, device='cpu').state_dict(), 'model.pth')
    code, output = run_tool('export', cfg.filename, 'model.pth', 'model.pt2')
    assert code == 0
    assert '(1, 3, 64, 64)' in output


def test_a_dry_run_writes_a_config_that_trains_as_any_other(run_tool, tmp_path):
    draw(tmp_path / 'my photos', 'masks')
    options = ('my photos', '--epochs', 2, '--size', 64, '--batch-size', 2, '--work-dir', 'w')
    code, output = run_tool('train', *options, '--dry-run')
    assert code == 0
    path = tmp_path / 'w/setup/sem-fpn_p2t-mini_my-photos.py'
    assert f'next: mmvit train {path}' in output
    assert not list(tmp_path.glob('w/*.pth'))
    text = path.read_text()
    assert '_base_' not in text
    assert max(map(len, text.splitlines())) <= 120 or str(tmp_path) in text
    cfg = load_config(path)
    assert (cfg.max_iters, cfg.val_interval, cfg.batch_size, cfg.edge) == (6, 3, 2, 64)
    assert cfg.model.decode_head.num_classes == 2
    assert 'Written by: mmvit train' in text or 'Written by: python tools/train.py' in text
    assert '--dry-run' not in text  # the training after it writes the same config
    before = path.read_bytes()
    assert run_tool('train', *options, '--dry-run')[0] == 0  # with the same result, which stays
    code, output = run_tool('train', *options, '--dry-run', '--epochs', 3)
    assert code == 2
    assert f'{path} exists already' in output
    assert path.read_bytes() == before
    assert run_tool('train', path, '--cfg-options', 'train_cfg.max_iters=1')[0] == 0
    assert list(tmp_path.glob('w/iter_1.pth'))


def test_the_commands_of_the_page_run(run_tool, tmp_path):
    draw(tmp_path / 'photos', 'masks')
    page = (Path(__file__).parents[2] / 'docs/own_data.md').read_text()
    blocks = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)
    lines = [
        words[1:] for block in blocks for line in block.splitlines() if (words := shlex.split(line, True))[0] == 'mmvit'
    ]
    assert [words[0] for words in lines] == ['train', 'predict', 'check', 'train', 'train', 'test']
    assert run_tool(*lines[0], '--checkpoint', 'none', '--epochs', 2, '--size', 64, '--batch-size', 2)[0] == 0
    work_dir = tmp_path / 'work_dirs/photos'
    for words in lines[1:]:
        files = {'DIR': 'work_dirs/photos', 'NAME': next(work_dir.glob('setup/*.py')).stem}
        files['best_mIoU_iter_480'] = next(work_dir.glob('best_*.pth')).stem
        for name, file in files.items():
            words = [word.replace(name, file) for word in words]
        code, output = run_tool(*words)
        assert code == 0, output
    assert len(list(work_dir.glob('pictures/overlays/*.png'))) == COUNT


@pytest.mark.parametrize(('channels', 'load'), [(1, 'grayscale'), (4, 'unchanged')])
def test_grey_and_four_channel_images_train(channels, load, run_tool, tmp_path):
    draw(tmp_path / 'photos', 'masks', channels)
    assert run_tool('train', 'photos', '--epochs', 1, '--size', 64, '--batch-size', 4)[0] == 0
    cfg = load_config(next(tmp_path.glob('work_dirs/photos/setup/*.py')))
    assert cfg.train_pipeline[0].color_type == load
    assert cfg.model.backbone.in_channels == channels


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (('photos', '--model', 'segvit_vit-small'), 'did you mean segvit_vit-s'),
        (('photos', '--model', 'p2t-t', '--task', 'seg'), '--model p2t-t is for classification, not for --task seg'),
        (('photos', '--epochs', '0'), '--epochs must be at least 1'),
        (('photos', '--val-share', '2'), '--val-share must be a share'),
        (('photos', '--checkpoint', 'absent.pth'), 'needs --model NAME'),
        (('photos', '--checkpoint', 'absent.pth', '--model', 'segvit_vit-t'), 'absent.pth'),
        (('photos', '--checkpoint', 'timm', '--model', 'segvit_vit-t'), 'timm has no weights for segvit_vit-t'),
        (('photos', '--checkpoint', 'timm'), '--checkpoint timm: pretrained weights cannot be downloaded'),
        (('photos', '--resume'), '--resume goes with a config'),
        (('photos', '--launcher', 'pytorch'), '--launcher goes with a config'),
        (('config.py', '--model', 'p2t-t'), '--model is for a folder of images, config.py is a config'),
        (('absent', '--dry-run'), 'there is no folder absent'),
    ],
)
def test_arguments_that_do_not_fit_are_said_and_write_nothing(arguments, sentence, run_tool, tmp_path):
    draw(tmp_path / 'photos', 'masks')
    (tmp_path / 'config.py').write_text('')
    code, output = run_tool('train', *arguments)
    assert code == 2
    assert sentence in output
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.parametrize(('count', 'mode'), [(COUNT, 'frozen'), (5000, 'tuned')])
def test_pretrained_weights_stay_or_learn_slowly(count, mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_data, '_unreachable', lambda tag: '')
    monkeypatch.setattr('mmvit_ext.engine.recipes.FEW_IMAGES', 0 if mode == 'tuned' else 300)
    monkeypatch.setattr('torch.cuda.is_available', lambda: mode == 'tuned')
    monkeypatch.setattr('torch.cuda.mem_get_info', lambda: (2**34, 2**34))
    prepared = own_data.prepare_training(draw(tmp_path / 'photos', 'masks'))
    cfg = Config.fromfile(prepared.config)
    backbone = cfg.model.backbone
    assert (backbone.model, backbone.checkpoint) == ('vit_small_patch14_dinov2.lvd142m', 'timm')
    assert backbone.get('frozen_stages') == (12 if mode == 'frozen' else None)
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == (1.0 if mode == 'frozen' else 0.75)
    assert 'licence Apache-2.0' in ' '.join(prepared.doubts)
    pytest.importorskip('timm')
    model = build_model(cfg, device='meta')
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any(name.startswith('decode_head.') for name in trained)
    assert any('.blocks.' in name for name in trained) == (mode == 'tuned')


def test_weights_of_a_file_go_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {'backbone.a': torch.zeros(1)}}, 'a.pth')
    folder = draw(tmp_path / 'photos', 'classes')
    prepared = own_data.prepare_training(folder, model='p2t-mini', checkpoint='a.pth')
    init = Config.fromfile(prepared.config).model.backbone.init_cfg
    assert init == dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')


def test_the_text_of_a_config_is_read_as_it_was_meant(tmp_path):
    entry = dict(a=[1, (2,), Name('size')], long=['word' * 8] * 6, empty={}, keys={'a-b': None, 3: True}, text="it's")
    text = config_text('A """quoted""" \\ text\x1b.', {'Sizes.': dict(size=(1, 2)), 'All.': dict(entry=entry)})
    assert max(map(len, text.splitlines())) <= 120
    path = tmp_path / 'a.py'
    path.write_text(text)
    read = Config.fromfile(path)
    assert read.entry.to_dict() == {**entry, 'a': [1, (2,), (1, 2)]}


@pytest.mark.parametrize(('padding', 'share'), [(None, (0, 10)), (0.0, (100, np.inf))])
def test_a_detector_from_scratch_fits_the_objects_and_survives_padding(padding, share, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = own_data.prepare_training(draw(tmp_path / 'photos', 'boxes'), checkpoint='none', size=192)
    cfg = Config.fromfile(prepared.config)
    # Squares of 24 pixels become 82 to 96 pixels wide; anchors of the middle stride, 16, are as large.
    assert 5 <= cfg.model.rpn_head.anchor_generator.scales[0] <= 6
    if padding is not None:
        cfg.model.data_preprocessor.pad_value = padding
    torch.manual_seed(0)
    model = build_model(cfg, device='cpu')
    model.init_weights()
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in ((64, 64), (32, 32))]
    samples = [DetDataSample(metainfo=dict(img_shape=image.shape[1:])) for image in images]
    batch = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)['inputs']
    maps = model.extract_feat(batch)
    sum((found * torch.randn_like(found)).mean() for found in maps).backward()
    projection = model.backbone.stages[0].patch_embed.projection
    ratio = projection.bias.grad.norm() / projection.weight.grad.norm()
    assert share[0] < ratio < share[1]


def test_numbered_objects_of_voc_train_with_the_classes_of_their_masks(run_tool, tmp_path):
    LAYOUTS['voc_segmentation'](tmp_path / 'voc')
    for number in range(6):
        name = f'2007_{number:06}'
        voc_xml(tmp_path / f'voc/VOCdevkit/VOC2012/Annotations/{name}.xml', f'{name}.jpg', BOXES)
    code, output = run_tool('train', 'voc', '--task', 'inst', '--checkpoint', 'none', '--dry-run')
    assert code == 0
    assert 'task: instance segmentation' in output
    assert 'masks that number objects and masks of their classes' in output
    cfg = Config.fromfile(next((tmp_path / 'work_dirs/voc/setup').glob('*.py')))
    assert cfg.model.roi_head.mask_head.num_classes == 20
    objects = json.loads(Path(cfg.train_dataloader.dataset.ann_file).read_text())
    names = {entry['id']: entry['name'] for entry in objects['categories']}
    assert [names[entry['category_id']] for entry in objects['annotations']] == ['aeroplane', 'bird'] * 4


def test_annotations_without_any_object_are_refused(run_tool, tmp_path):
    root = draw(tmp_path / 'photos', 'boxes')
    (root / 'annotations.json').unlink()
    for path in (root / 'images').iterdir():
        voc_xml(root / 'Annotations' / f'{path.stem}.xml', path.name, {})
    code, output = run_tool('train', 'photos', '--dry-run')
    assert code == 2
    assert re.search(r'the .* of .*photos hold no object: add annotations', output)
