"""Loading images and label maps: what comes out, and what is refused with which words."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image

pytest.importorskip('mmcv')

from mmvit_ext.datasets import LoadImageFromFile, LoadSegAnnotations
from mmvit_ext.errors.user_error import UserError
from tests.processes import run_program

PIXELS = np.random.default_rng(0).integers(0, 255, (7, 11, 3), dtype=np.uint8)


def load_image(path: Path, **arguments: Any) -> np.ndarray:
    return LoadImageFromFile(**arguments)({'img_path': str(path)})['img']


def load_labels(path: Path, labels: np.ndarray | None = None, sample: dict[str, Any] | None = None, **arguments: Any):
    if labels is not None:
        Image.fromarray(labels).save(path)
    results = {'seg_map_path': str(path), 'seg_fields': [], 'reduce_zero_label': False, **(sample or {})}
    return LoadSegAnnotations(**arguments)(results)['gt_seg_map']


def test_without_mmcv_the_types_are_left_out_but_a_broken_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import reload, util

    import mmvit_ext.datasets as package

    find_spec = util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(util, 'find_spec', lambda name: None if name == 'mmcv' else find_spec(name))
        assert not reload(package).__all__
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'mmvit_ext.datasets.seg_transforms', None)
        with pytest.raises(ImportError):
            reload(package)
    assert 'LoadSegAnnotations' in reload(package).__all__


def test_importing_the_types_loads_no_engine_and_no_library_that_they_do_not_build_on() -> None:
    code = 'import sys, mmvit_ext.datasets; print(*sys.modules)'
    loaded = set(run_program(code).stdout.split())
    assert 'mmvit_ext.datasets.seg_transforms' in loaded
    assert not loaded & {'mmseg', 'mmdet', 'mmpretrain', 'mmvit_ext.engine', 'mmvit_ext.models', 'mmvit_ext.config'}


# Images


def test_both_types_are_found_by_their_scope() -> None:
    assert TRANSFORMS.get('mmvit_ext.LoadImageFromFile') is LoadImageFromFile
    assert TRANSFORMS.get('mmvit_ext.LoadSegAnnotations') is LoadSegAnnotations


def test_channels_come_in_the_order_that_mmcv_gives(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / 'a.png')
    results = LoadImageFromFile()({'img_path': str(tmp_path / 'a.png')})
    assert np.array_equal(results['img'], PIXELS[..., ::-1])
    assert results['img_shape'] == results['ori_shape'] == (7, 11)
    assert load_image(tmp_path / 'a.png', to_float32=True).dtype == np.float32


@pytest.mark.parametrize('mode', ['L', 'LA', 'P', 'RGBA', '1', 'CMYK', 'YCbCr'])
def test_every_kind_of_8_bit_image_becomes_three_channels(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ('a.tif' if mode in ('CMYK', 'YCbCr') else 'a.png')
    Image.fromarray(PIXELS).convert(mode).save(path)
    image = load_image(path)
    assert image.shape == (7, 11, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, np.float32])
def test_wider_pixels_are_refused_instead_of_clipped(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.full((7, 11), 4000, dtype)).save(tmp_path / 'a.tif')
    with pytest.raises(UserError, match=r'a\.tif has 16 or more bits'):
        load_image(tmp_path / 'a.tif')


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'webp', 'tif'])
def test_a_truncated_image_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=rf'the image .*a\.{suffix} cannot be decoded'):
        load_image(path)


def test_missing_and_empty_images_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent\.jpg does not exist'):
        load_image(tmp_path / 'absent.jpg')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with pytest.raises(UserError, match=r'empty\.jpg is empty'):
        load_image(tmp_path / 'empty.jpg')
    assert LoadImageFromFile(ignore_empty=True).transform({'img_path': str(tmp_path / 'empty.jpg')}) is None


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(PIXELS).save(tmp_path / 'a.png', exif=exif)
    assert np.array_equal(load_image(tmp_path / 'a.png'), np.rot90(PIXELS[..., ::-1]))


# Label maps


def test_labels_equal_those_of_mmseg(tmp_path: Path) -> None:
    from mmseg.datasets.transforms import LoadAnnotations

    labels = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)
    path = tmp_path / 'a.png'
    for sample in (
        {'reduce_zero_label': False},
        {'reduce_zero_label': True},
        {'reduce_zero_label': False, 'label_map': {0: 2, 1: 255, 2: 0, 3: 1}},
        {'reduce_zero_label': True, 'label_map': {0: 1, 1: 0, 2: 255}},
    ):
        ours = load_labels(path, labels, sample, num_classes=4)
        results = {'seg_map_path': str(path), 'seg_fields': [], 'label_map': None, **sample}
        theirs = LoadAnnotations()(results)['gt_seg_map']
        assert np.array_equal(ours, theirs), sample
        assert ours.dtype == theirs.dtype


def test_the_field_is_announced_so_that_crops_and_flips_apply_to_it(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / 'a.png')
    results = {'seg_map_path': str(tmp_path / 'a.png'), 'seg_fields': [], 'reduce_zero_label': False}
    assert LoadSegAnnotations(num_classes=2)(results)['seg_fields'] == ['gt_seg_map']


def test_values_outside_the_classes_are_named_with_their_pixels(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 7], [7, 9, 255]], np.uint8)
    with pytest.raises(
        UserError, match=r'a\.png .* outside the 3 classes: 7 \(2 px\), 9 \(1 px\); expected 0 to 2, 255'
    ):
        load_labels(tmp_path / 'a.png', labels, num_classes=3)
    assert load_labels(tmp_path / 'a.png', num_classes=None).max() == 255


def test_many_wrong_values_are_counted_and_not_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='and 92 more'):
        load_labels(tmp_path / 'a.png', np.arange(100, dtype=np.uint8).reshape(10, 10), num_classes=3)


def test_values_above_8_bit_do_not_wrap_around_into_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'257 \(1 px\)'):
        load_labels(tmp_path / 'a.png', np.array([[0, 257]], np.uint16), num_classes=3)


@pytest.mark.parametrize(
    ('labels', 'hint'),
    [
        ([[1, 2, 3]], 'reduce_zero_label=True'),
        ([[0, 254]], 'a mask of 0 and 254 has to be written as 0 and 1'),
        ([[0, 9]], 'a mask of 0 and 9'),
        ([[0, 1, 9]], 'correct the file'),
    ],
)
def test_the_likely_cause_is_named(labels: list[list[int]], hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=hint):
        load_labels(tmp_path / 'a.png', np.array(labels, np.uint8), num_classes=3)


def test_reduced_labels_are_checked_before_they_are_reduced(tmp_path: Path) -> None:
    sample = {'reduce_zero_label': True}
    reduced = load_labels(tmp_path / 'a.png', np.array([[0, 1, 3, 255]], np.uint8), sample, num_classes=3)
    assert reduced.tolist() == [[255, 0, 2, 255]]
    with pytest.raises(UserError, match=r'4 \(1 px\); expected 1 to 3, 255 = ignored, 0 = ignored'):
        load_labels(tmp_path / 'a.png', np.array([[0, 4]], np.uint8), sample, num_classes=3)


def test_a_contradiction_with_the_dataset_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match='reduce_zero_label is True in LoadSegAnnotations but False in the dataset'):
        load_labels(tmp_path / 'a.png', labels, reduce_zero_label=True)


def test_a_label_map_of_another_size_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((4, 6), np.uint8)
    assert load_labels(tmp_path / 'a.png', labels, {'ori_shape': (4, 6), 'img_shape': (8, 12)}).shape == (4, 6)
    with pytest.raises(UserError, match=r'a\.png is 6x4 pixels but its image b\.jpg is 4x6'):
        load_labels(tmp_path / 'a.png', labels, {'ori_shape': (6, 4), 'img_path': 'b.jpg'})


def test_colours_are_refused_and_palettes_read_as_indices(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / 'colours.png')
    with pytest.raises(UserError, match=r'colours\.png is a RGB picture'):
        load_labels(tmp_path / 'colours.png')
    picture = Image.fromarray(np.array([[0, 2]], np.uint8))
    picture.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    picture.save(tmp_path / 'palette.png')
    assert load_labels(tmp_path / 'palette.png', num_classes=3).tolist() == [[0, 2]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / 'binary.png')
    assert load_labels(tmp_path / 'binary.png', num_classes=2).tolist() == [[0, 1]]


def test_missing_and_broken_label_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'the label map .*absent\.png does not exist'):
        load_labels(tmp_path / 'absent.png')
    (tmp_path / 'text.png').write_text('text')
    with pytest.raises(UserError, match=r'the label map .*text\.png cannot be decoded'):
        load_labels(tmp_path / 'text.png')


@pytest.mark.parametrize('count', [0, 256])
def test_a_number_of_classes_that_8_bit_cannot_hold_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match='num_classes must be 1 to 255'):
        LoadSegAnnotations(num_classes=count)
