"""Masks of an ATM head: their values against slow computations, their place in the picture, files, errors."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmvit_ext.cli import main
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.drawing import colour_mask
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret import atm_masks
from mmvit_ext.interpret.atm_masks import ClassMasks, class_masks, draw_sheet, stage_names
from mmvit_ext.interpret.explain import find_classes
from mmvit_ext.interpret.inputs import OpenedImage

ROOT = Path(__file__).parents[2]
CLASSES = ('wall', 'swivel chair', 'bed ', 'sky', 'sea')

CONFIG = """
default_scope = 'mmseg'
test_pipeline = [
    dict(type='mmvit_ext.LoadImageFromFile'),
    dict(type='mmvit_ext.LoadSegAnnotations', num_classes=5),
    dict(type='PackSegInputs'),
]
metainfo = dict(classes=('wall', 'swivel chair', 'bed ', 'sky', 'sea'))
test_dataloader = dict(dataset=dict(type='BaseSegDataset', metainfo=metainfo, pipeline=test_pipeline))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
    ),
    backbone=dict(
        type='mmvit_ext.ViT',
        embed_dims=12,
        num_layers=3,
        num_heads=2,
        mlp_ratio=2,
        img_size=32,
        patch_size=8,
        out_indices=(0, 2),
        with_cls_token=False,
    ),
    decode_head=dict(
        type='mmvit_ext.ATMHead',
        in_channels=[12, 12],
        in_index=[0, 1],
        channels=8,
        num_heads=2,
        num_layers=2,
        num_classes=5,
    ),
    test_cfg=dict(mode='whole'),
)
"""
RESIZE = "test_pipeline.insert(1, dict(type='Resize', scale=(97, 53), keep_ratio=True))"
PAD = "model['data_preprocessor'].update(test_cfg=dict(size_divisor=32))"
SLIDE = "model['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(20, 20))"
LAYER = "model['decode_head'].update(in_channels=12, in_index=1, deep_supervision='layer')"
FCN = """
model['decode_head'] = dict(
    type='FCNHead', in_channels=12, in_index=0, channels=12, num_convs=0, concat_input=False, num_classes=5
)
"""
CASES = {
    'as it is': '',
    'resized': RESIZE,
    'padded': PAD,
    'resized and padded': f'{RESIZE}\n{PAD}',
    'every layer': LAYER,
}


def weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with which an untrained model predicts several classes: queries stay apart and are told apart."""
    generator = torch.Generator().manual_seed(1)
    drawn = {}
    for name, value in state.items():
        drawn[name] = torch.empty_like(value).normal_(generator=generator)
        if '.norm' in name or '.ln' in name:
            drawn[name] = drawn[name] * 0.1 + name.endswith('weight')
        elif any(part in name for part in ('cross_attn.proj', 'out_proj', 'ffn.3')):
            drawn[name] *= 0.06
        elif 'class_queries' not in name:
            drawn[name] *= 1.2 if 'cross_attn.q' in name or 'cross_attn.k' in name else 0.3
    if 'decode_head.class_queries.weight' in drawn:
        drawn['decode_head.class_embed.weight'][:-1] += drawn['decode_head.class_queries.weight']
    return drawn


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmseg')


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes the config, with lines added at its end, and weights that give masks with structure."""

    def write(*extra: str) -> tuple[Path, Path]:
        config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
        config.write_text(CONFIG + '\n'.join(extra) + '\n')
        model = MODELS.build(Config.fromfile(config).model)
        torch.save({'state_dict': weights(model.state_dict())}, checkpoint)
        return config, checkpoint

    return write


@pytest.fixture
def load(files: Callable[..., tuple[Path, Path]]) -> Callable[..., Predictor]:
    def build(*extra: str) -> Predictor:
        config, checkpoint = files(*extra)
        return Predictor(Config.fromfile(config), checkpoint, torch.device('cpu'))

    return build


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 67x41 pixels, which no stride divides, with coarse structure."""
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), dtype=np.uint8)
    path = tmp_path / 'photo.png'
    Image.fromarray(pixels).resize((67, 41), Image.Resampling.BICUBIC).save(path)
    return path


def run(*arguments: Any) -> int:
    return main.run(['explain', 'atm', *map(str, arguments)])


def bilinear(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def decoded(predictor: Predictor, photo: Path) -> tuple[torch.Tensor, list[Any], tuple[int, ...]]:
    """Network input, outputs of the head, and (height, width) of the input without padding."""
    model: Any = predictor.model
    _, batch = predictor.prepare(photo)
    before = tuple(batch['inputs'][0].shape[1:])
    inputs = model.data_preprocessor(batch, False)['inputs']
    with torch.no_grad():
        return inputs, model.decode_head.decode(model.extract_feat(inputs)), before


@pytest.mark.parametrize('case', CASES)
def test_masks_equal_those_computed_from_the_heads_outputs(
    case: str, load: Callable[..., Predictor], photo: Path
) -> None:
    predictor = load(CASES[case])
    classes = (3, 0, 4)
    result = class_masks(OpenedImage(predictor, photo), classes)
    inputs, outputs, (height, width) = decoded(predictor, photo)
    assert result.masks.shape == (len(outputs), 3, 41, 67)
    assert result.masks.std() > 0.2
    for stage, output in enumerate(outputs):
        for row, index in enumerate(classes):
            full = bilinear(output.masks[:, index : index + 1], (inputs.shape[2], inputs.shape[3])).sigmoid()
            expected = bilinear(full[..., :height, :width], (41, 67))[0, 0].numpy()
            np.testing.assert_allclose(result.masks[stage, row], expected, atol=1e-6)
            logits = output.logits[0, index].exp()
            probability = float(logits[index] / logits.sum())
            assert result.probabilities[stage, row] == pytest.approx(probability, rel=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_class_probabilities_times_last_masks_are_the_models_scores(
    case: str, load: Callable[..., Predictor], photo: Path
) -> None:
    predictor = load(CASES[case])
    result = class_masks(OpenedImage(predictor, photo), range(5))
    _, outputs, _ = decoded(predictor, photo)
    image, sample = predictor(photo)
    scores = np.einsum('qc,qhw->chw', outputs[-1].logits[0].softmax(-1)[:, :-1].numpy(), result.masks[-1])
    np.testing.assert_allclose(scores, sample.seg_logits.data.numpy(), atol=1e-5)
    assert len(np.unique(result.labels)) > 2
    assert np.array_equal(result.labels, predictor.segment(photo)[1])
    assert np.array_equal(result.image, image)


@pytest.mark.parametrize('case', ['resized', 'resized and padded'])
def test_scores_of_a_large_image_are_never_all_of_its_size(
    case: str, load: Callable[..., Predictor], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load(CASES[case])
    whole = class_masks(OpenedImage(predictor, photo))
    sizes, give = [], type(predictor.model).postprocess_result

    def watched(model: Any, scores: torch.Tensor, samples: Any) -> Any:
        found = give(model, scores, samples)
        sizes.append(tuple(found[0].seg_logits.shape))
        return found

    monkeypatch.setattr(type(predictor.model), 'postprocess_result', watched)
    monkeypatch.setattr(atm_masks, 'MAX_SCORES', 1)
    opened = OpenedImage(predictor, photo)
    held = class_masks(opened)
    assert sizes == [opened.input_size, (41, 67)]
    assert opened.input_size != (41, 67)
    assert (held.labels == whole.labels).mean() > 0.98
    assert held.classes == whole.classes
    np.testing.assert_array_equal(held.masks, whole.masks)


def test_masks_of_a_sliding_inference_are_means_over_its_windows(load: Callable[..., Predictor], photo: Path) -> None:
    predictor = load(SLIDE)
    model: Any = predictor.model
    result = class_masks(OpenedImage(predictor, photo), (1, 2))
    inputs = model.data_preprocessor(predictor.prepare(photo)[1], False)['inputs']
    total, count, probabilities = np.zeros((2, 2, 41, 67)), np.zeros((41, 67)), []
    for top in (0, 9):
        for left in (0, 20, 35):
            with torch.no_grad():
                window = inputs[..., top : top + 32, left : left + 32]
                outputs = model.decode_head.decode(model.extract_feat(window))
            for stage, output in enumerate(outputs):
                masks = bilinear(output.masks[:, 1:3], (32, 32)).sigmoid()[0].numpy()
                total[stage, :, top : top + 32, left : left + 32] += masks
            count[top : top + 32, left : left + 32] += 1
            probabilities.append([[float(o.logits[0, c].softmax(-1)[c]) for c in (1, 2)] for o in outputs])
    np.testing.assert_allclose(result.masks, total / count, atol=1e-6)
    np.testing.assert_allclose(result.probabilities, np.max(probabilities, axis=0), rtol=1e-5)
    assert np.array_equal(result.labels, predictor.segment(photo)[1])


def test_a_window_larger_than_the_image_is_the_whole_image(load: Callable[..., Predictor], photo: Path) -> None:
    whole = class_masks(OpenedImage(load(), photo), (0,))
    slide = class_masks(OpenedImage(load(SLIDE.replace('(32, 32)', '(640, 640)')), photo), (0,))
    np.testing.assert_array_equal(slide.masks, whole.masks)


def test_the_classes_with_the_largest_predicted_area_are_shown_first(
    load: Callable[..., Predictor], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load()
    scores = torch.zeros(1, 5, 41, 67)
    scores[:, 3] = 1
    scores[:, 1, :10] = 2
    scores[:, 4, 40:] = 2
    monkeypatch.setattr(predictor.model.decode_head, 'fuse', lambda output, size: scores)
    assert class_masks(OpenedImage(predictor, photo)).classes == (3, 1, 4)  # the other two are nowhere predicted
    assert class_masks(OpenedImage(predictor, photo), top=2).classes == (3, 1)


def test_classes_are_found_by_name_whatever_the_case_and_spaces() -> None:
    assert find_classes(['SKY', ' bed', 'swivel  chair', 'sky'], CLASSES) == (3, 2, 1)
    with pytest.raises(UserError, match=r"'swivel chiar' is none of the 5 classes .*: did you mean 'swivel chair'\?"):
        find_classes(['sky', 'swivel chiar'], CLASSES)
    with pytest.raises(UserError, match=r"'locomotive' is none .* quotes"):
        find_classes(['locomotive'], CLASSES)


def test_names_of_the_datasets_class_are_known_where_the_checkpoint_has_none(load: Callable[..., Predictor]) -> None:
    num_classes = "model['decode_head']['num_classes'] = 19"
    dataset = "test_dataloader = dict(dataset=dict(type='CityscapesDataset', pipeline=test_pipeline))"
    predictor = load(num_classes, dataset)
    assert find_classes(['traffic light', 'Road'], predictor.classes) == (6, 0)
    assert list(predictor.palette[0]) == [128, 64, 128]


STAGES = {
    'segvit_vit-l16_8xb2-160k_ade20k-640x640': ['stage 1 (layer 24)', 'stage 2 (layer 16)', 'stage 3 (layer 8)'],
    'segvit-layer12_vit-b16_8xb2-160k_ade20k-512x512': ['stage 1 (layer 12)'],
    'segvit-shrunk_vit-l16_8xb2-160k_ade20k-640x640': [
        f'decoder layer {number} (layer 8 + layer 24)' for number in (1, 2, 3)
    ],
    'segvit_vit-s14_1xb4-1200_camvid-392x518': ['stage 1 (block 11)', 'stage 2 (block 9)', 'stage 3 (block 6)'],
}


@pytest.mark.parametrize('name', STAGES)
def test_stages_of_the_published_models_name_the_layers_they_look_at(name: str) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'segvit' / f'{name}.py')
    if cfg.model.backbone.type.endswith('TimmViT'):
        pytest.importorskip('timm')
    with torch.device('meta'):
        assert stage_names(MODELS.build(cfg.model)) == STAGES[name]


BACKBONES: dict[str, tuple[dict[str, Any], list[str]]] = {
    'reordered': ({'out_indices': (2, 0)}, ['stage 1 (layer 1)', 'stage 2 (layer 3)']),
    'from the end': ({'out_indices': (0, -1)}, ['stage 1 (layer 3)', 'stage 2 (layer 1)']),
    'with embedding': ({'out_indices': (2,), 'out_origin': True}, ['stage 1 (layer 3)', 'stage 2 (patch embedding)']),
    # mmseg's gives its maps in the order of its layers
    'of mmseg': (
        {'type': 'VisionTransformer', 'out_indices': (2, 0)},
        ['stage 1 (layer 3)', 'stage 2 (layer 1)'],
    ),
    'no plain ViT': (
        {'_delete_': True, 'type': 'ResNet', 'depth': 18, 'out_indices': (0, 3)},
        ['stage 1 (in_index 1)', 'stage 2 (in_index 0)'],
    ),
}


@pytest.mark.parametrize('kind', BACKBONES)
def test_stages_name_the_layers_of_any_backbone(kind: str, tmp_path: Path) -> None:
    changed, expected = BACKBONES[kind]
    base = tmp_path / 'base.py'
    base.write_text(CONFIG)
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = './base.py'\nmodel = dict(backbone={changed!r})\n")
    assert stage_names(MODELS.build(Config.fromfile(leaf).model)) == expected


def test_colours_are_those_of_the_map_and_grow_lighter() -> None:
    assert colour_mask(np.array([[0.0, 0.5], [1.0, 1.7]])).tolist() == [
        [[68, 1, 84], [33, 145, 140]],
        [[253, 231, 37], [253, 231, 37]],
    ]
    lightness = colour_mask(np.linspace(0, 1, 256)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -1).all()
    assert (np.diff(lightness[::8]) > 0).all()


def places(sheet: np.ndarray, patch: np.ndarray) -> list[tuple[int, int]]:
    """Every (top, left) at which a patch stands in a picture."""
    views = np.lib.stride_tricks.sliding_window_view(sheet, (1, *patch.shape[1:]))[:, :, 0, 0]
    rows = np.argwhere((views == patch[0]).all(axis=(-1, -2)))
    return [
        (y, x) for y, x in rows.tolist() if np.array_equal(sheet[y : y + len(patch), x : x + patch.shape[1]], patch)
    ]


@pytest.fixture
def result() -> ClassMasks:
    generator = np.random.default_rng(1)
    labels = np.zeros((37, 61), np.int64)
    labels[:, 40:] = 4
    return ClassMasks(
        generator.integers(0, 255, (37, 61, 3), dtype=np.uint8),
        labels,
        (4, 1),
        generator.random((2, 2, 37, 61), dtype=np.float32),
        np.array([[0.5, 0.1], [0.75, 0.2]], dtype=np.float32),
    )


PALETTE = [(40 * index, 200 - 40 * index, 90) for index in range(5)]


def test_a_sheet_holds_image_masks_and_prediction_of_each_class_in_order(result: ClassMasks) -> None:
    sheet = np.array(draw_sheet(result, ['stage 1', 'stage 2'], CLASSES, PALETTE, edge=61))
    images = places(sheet, result.image)
    assert len(images) == 2
    for row, (top, left) in enumerate(images):
        columns = [left]
        for stage in range(2):
            [(y, x)] = places(sheet, colour_mask(result.masks[stage, row]))
            assert y == top
            columns.append(x)
        assert columns == sorted(columns)
        full = np.array(PALETTE, np.uint8)[result.labels]
        pale = np.rint(255 - 0.25 * (255 - full.astype(float))).astype(np.uint8)
        shown = np.where((result.labels == result.classes[row])[..., None], full, pale)
        [(y, x)] = [place for place in places(sheet, shown) if place[0] == top]
        assert x > columns[-1]
    assert images[0][0] < images[1][0]


def test_opacity_lets_the_grey_image_through_the_masks(result: ClassMasks) -> None:
    grey = np.array(Image.fromarray(result.image).convert('L').convert('RGB'))
    stages = ['stage 1', 'stage 2']
    assert len(places(np.array(draw_sheet(result, stages, CLASSES, PALETTE, opacity=0, edge=61)), grey)) == 4
    half = np.rint((grey.astype(float) + colour_mask(result.masks[1, 1])) / 2).astype(np.uint8)
    assert len(places(np.array(draw_sheet(result, stages, CLASSES, PALETTE, opacity=0.5, edge=61)), half)) == 1


def test_pictures_of_a_sheet_keep_the_shape_of_the_image(result: ClassMasks) -> None:
    white = ClassMasks(
        np.full((37, 61, 3), 7, np.uint8), result.labels, result.classes, result.masks, result.probabilities
    )
    sheet = np.array(draw_sheet(white, ['a', 'b'], CLASSES, PALETTE, edge=122))
    assert int((sheet == 7).all(-1).sum()) == pytest.approx(2 * 122 * 74, rel=0.01)


def test_headings_captions_and_bar_are_written_without_being_cut(result: ClassMasks) -> None:
    long = ('wall', 'a class whose name is longer than its picture is wide', 'bed', 'sky', 'sea')
    sheet = np.array(
        draw_sheet(result, ['a stage whose heading is wider than its picture'] * 2, long, PALETTE, edge=16)
    )
    border = np.concatenate([sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]])
    assert (border == 255).all()
    plain = np.array(draw_sheet(result, ['s', 's'], ('c',) * 5, PALETTE, edge=16))
    assert sheet.shape[1] > plain.shape[1]
    assert len(places(sheet, colour_mask(np.linspace(0, 1, 110))[None])) == 11


def test_a_sheet_needs_a_heading_for_every_stage(result: ClassMasks) -> None:
    with pytest.raises(ValueError, match='stages must have 2 headings, got 1'):
        draw_sheet(result, ['a'], CLASSES, PALETTE)


def test_the_command_writes_a_sheet_and_the_arrays_of_each_image(
    files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = files()
    folder = tmp_path / 'photos'
    folder.mkdir()
    Image.open(photo).save(folder / 'a.png')
    Image.open(photo).save(folder / 'a.bmp')
    Image.open(photo).rotate(90, expand=True).save(folder / 'b.png')
    (folder / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
    names = {'a_png', 'a_bmp', 'b'}
    out = tmp_path / 'out'
    code = run(config, checkpoint, folder, '--out', out, '--save-masks', '--classes', 'sea', 'BED')
    output = capsys.readouterr()
    assert code == 2
    assert '3 images explained' in output.out
    assert 'explain: error: 1 images failed' in output.err
    assert f'{folder / "cut.jpg"}: ' in output.err
    written = {path.relative_to(out).as_posix() for path in out.rglob('*.*')}
    assert written == {'atm.html'} | {f'atm/{name}.{kind}' for name in names for kind in ('png', 'npz', 'json')}
    predictor = Predictor(Config.fromfile(config), checkpoint, torch.device('cpu'))
    expected = class_masks(OpenedImage(predictor, folder / 'b.png'), (4, 2))
    with np.load(out / 'atm' / 'b.npz') as arrays:
        assert arrays['masks'].shape == (2, 2, 67, 41)
        np.testing.assert_array_equal(arrays['masks'], expected.masks)
        np.testing.assert_array_equal(arrays['probabilities'], expected.probabilities)
        np.testing.assert_array_equal(arrays['labels'], expected.labels)
        assert arrays['classes'].tolist() == ['sea', 'bed ']
        assert arrays['class_indices'].tolist() == [4, 2]
        assert arrays['stages'].tolist() == ['stage 1 (layer 3)', 'stage 2 (layer 1)']
    facts = json.loads((out / 'atm' / 'b.json').read_text())['classes']
    assert [fact['class'] for fact in facts] == ['sea', 'bed ']
    assert facts[0]['share of the image'] == pytest.approx((expected.labels == 4).mean())
    assert facts[1]['p, stage 2 (layer 1)'] == pytest.approx(expected.probabilities[1, 1])


def test_without_named_classes_top_says_how_many_rows_there_are(
    files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path
) -> None:
    heights = {}
    for top in (1, 2):
        assert run(*files(), photo, '--out', tmp_path / str(top), '--top', top, '--size', 64) == 0
        assert list((tmp_path / str(top)).rglob('*.npz')) == []
        heights[top] = Image.open(tmp_path / str(top) / 'atm' / 'photo.png').height
    # A row is the picture (64 pixels wide, 39 high), a line of text and the gaps.
    assert 39 < heights[2] - heights[1] < 80


def test_nothing_is_left_of_an_image_whose_arrays_cannot_be_written(
    files: Callable[..., tuple[Path, Path]],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(file: Path, **arrays: np.ndarray) -> None:
        Path(file).write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device', str(file))

    monkeypatch.setattr(atm_masks.np, 'savez_compressed', fail)
    assert run(*files(), photo, '--out', tmp_path / 'out', '--save-masks') == 2
    assert 'the disk is full' in capsys.readouterr().err
    assert [path for path in (tmp_path / 'out').rglob('*') if path.is_file()] == []


BAD_ARGUMENTS = {
    'unknown class': (['--classes', 'skye'], ["--classes 'skye'", "'sky'"]),
    'opacity': (['--opacity', '1.5'], ['--opacity must be 0 to 1, got 1.5']),
    'top': (['--top', '0'], ['--top must be at least 1, got 0']),
    'top and classes': (['--top', '1', '--classes', 'sky'], ['--top', '--classes']),
    'size': (['--size', '5000'], ['--size must be 16 to 4096 pixels, got 5000']),
    'device': (['--device', 'gpu0'], ["--device 'gpu0'"]),
    'no ATM head': ([], ['has a FCNHead', 'ShrunkATMHead', 'configs/segvit']),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_bad_arguments_end_in_one_sentence_and_write_nothing(
    case: str,
    files: Callable[..., tuple[Path, Path]],
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, expected = BAD_ARGUMENTS[case]
    paths = files(FCN if case == 'no ATM head' else '')
    assert run(*paths, photo, '--out', tmp_path / 'out', *arguments) == 2
    output = capsys.readouterr().err
    assert output.startswith('mmvit explain: error: ')
    assert 'Traceback' not in output
    for part in expected:
        assert part in output
    assert not (tmp_path / 'out').exists()
