"""Label maps whose classes are arbitrary values or colours, and lists that pair images with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.datasets.list_dataset import ListSegDataset
from mmvit_ext.datasets.seg_transforms import LoadSegAnnotations
from mmvit_ext.errors.user_error import UserError


def loaded(pixels: np.ndarray, path: Path, **arguments) -> np.ndarray:
    Image.fromarray(pixels).save(path)
    sample = {'seg_map_path': str(path), 'ori_shape': pixels.shape[:2], 'seg_fields': []}
    return LoadSegAnnotations(**arguments)(sample)['gt_seg_map']


def test_values_are_classes_in_their_order(tmp_path: Path) -> None:
    pixels = np.array([[7, 11, 0], [255, 3, 7]], np.uint8)
    labels = loaded(pixels, tmp_path / 'a.png', values=[11, 7, 0], ignored=[3])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 0, 2], [255, 255, 1]]
    assert loaded(pixels, tmp_path / 'a.png', values=[11, 7, 0, 255, 3]).tolist() == [[1, 0, 2], [3, 4, 1]]
    wide = np.array([[40000, 7]], np.uint16)
    assert loaded(wide, tmp_path / 'a.png', values=[7, 40000], num_classes=2).tolist() == [[1, 0]]
    assert loaded(pixels, tmp_path / 'a.png', values=[11, 7, 0], ignored=[3, 255], ignore_index=9).max() == 9


def test_a_value_that_is_not_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'a.png has values outside the 2 classes: 5 \(1 px\); expected those in values'
    ):
        loaded(np.array([[0, 7, 5]], np.uint8), tmp_path / 'a.png', values=[0, 7])


def test_colours_are_classes_and_others_have_no_label(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 0, 0], [254, 0, 0]]], np.uint8)
    assert loaded(pixels, tmp_path / 'a.png', values=['#000000', '#ff0000']).tolist() == [[1, 0, 255]]
    assert loaded(pixels, tmp_path / 'a.png', values=['#000000', '#ff0000'], tolerance=8).tolist() == [[1, 0, 1]]
    grey = np.array([[0, 100, 250]], np.uint8)
    assert loaded(grey, tmp_path / 'a.png', values=[0, 255], tolerance=64).tolist() == [[0, 255, 1]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), 'L').convert('P')
    palette.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    palette.save(tmp_path / 'p.png')
    sample = {'seg_map_path': str(tmp_path / 'p.png'), 'seg_fields': []}
    assert LoadSegAnnotations(values=['#ff0000', '#000000'])(sample)['gt_seg_map'].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    'arguments', [{'values': [0, 0]}, {'values': []}, {'values': ['red']}, {'values': [0, 1], 'num_classes': 3}]
)
def test_wrong_values_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match='values'):
        LoadSegAnnotations(**arguments)


def test_a_list_pairs_images_and_masks(tmp_path: Path) -> None:
    (tmp_path / 'list.csv').write_text('image,mask\n"a, b.jpg",m/a.png\nc.jpg,\n')
    dataset = ListSegDataset('list.csv', data_root=str(tmp_path), metainfo={'classes': ('x',)})
    first, second = dataset.load_data_list()
    assert (first['img_path'], first['seg_map_path']) == (f'{tmp_path}/a, b.jpg', f'{tmp_path}/m/a.png')
    assert 'seg_map_path' not in second
    (tmp_path / 'list.csv').write_text('picture,mask\n')
    with pytest.raises(UserError, match=r"columns \['picture', 'mask'\]: expected image,mask"):
        dataset.load_data_list()
    (tmp_path / 'list.csv').write_text('image,mask\n')
    with pytest.raises(UserError, match='lists no image'):
        dataset.load_data_list()


def test_the_nearest_value_counts_for_wide_numbers_and_beside_ignored_ones(tmp_path: Path) -> None:
    wide = np.array([[0, 44, 300, 299, 256]], np.uint16)
    assert loaded(wide, tmp_path / 'a.png', values=[0, 44, 300], tolerance=2).tolist() == [[0, 1, 2, 2, 255]]
    near = np.array([[0, 250, 252, 251]], np.uint8)
    found = loaded(near, tmp_path / 'b.png', values=[0, 250], ignored=[252], tolerance=3)
    assert found.tolist() == [[0, 1, 255, 1]]


@pytest.mark.parametrize('tolerance', [-1, 256])
def test_a_tolerance_outside_a_byte_is_refused(tolerance: int) -> None:
    with pytest.raises(ValueError, match=f'tolerance has to be 0 to 255, got {tolerance}'):
        LoadSegAnnotations(values=[0, 7], tolerance=tolerance)
