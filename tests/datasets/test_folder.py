"""Folders of images and annotations: what is understood of each layout, and what is said about mistakes."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmvit_ext.datasets.folder import FolderData, understand, write_datasets
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import DATASETS, TRANSFORMS

SIZE = (24, 32)


def photo(path: Path, size: tuple[int, int] = SIZE, channels: int = 3, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, len(path.name)]).integers(0, 256, (*size, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(path)


def blocks(values: list[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A map with an area of each value, from left to right."""
    return np.repeat(np.array(values), -(-size[1] // len(values)))[: size[1]][None].repeat(size[0], 0)


def mask(path: Path, values: list[int], size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks(values, size).astype(np.uint8)).save(path)


def first_sample(data: FolderData, out: Path, split: str = 'train') -> dict:
    """The first sample of the dataset that is written for a split, loaded."""
    init_default_scope({'seg': 'mmseg', 'cls': 'mmpretrain'}.get(data.task, 'mmdet'))
    dataset = DATASETS.build({**write_datasets(data, out)[split], 'pipeline': []})
    sample = dataset[0]
    if data.load_annotations:
        sample = TRANSFORMS.build(data.load_annotations)({**sample, 'ori_shape': SIZE})
    return sample


@pytest.mark.parametrize(
    ('images', 'masks'),
    [
        ('images/{:03}.jpg', 'masks/{:03}.png'),
        ('images/img_{:03}.jpg', 'masks/mask_{:03}.png'),
        ('data/{:03}.jpg', 'data/{:03}_mask.png'),
        ('x/a{:03}.jpg', 'x/a{:03}.png'),
        ('scene/{:03}/image.png', 'scene/{:03}/mask.png'),
        ('fotos/bild_{:03}.jpg', 'etiketten/etikett_{:03}.png'),
    ],
)
def test_photographs_and_masks_are_paired(tmp_path: Path, images: str, masks: str) -> None:
    for number in range(1, 11):
        photo(tmp_path / images.format(number))
        mask(tmp_path / masks.format(number), [0, 1, 2])
    data = understand(tmp_path)
    assert data.task == 'seg'
    pairs = {sample.image: sample.mask for samples in data.splits.values() for sample in samples}
    assert pairs == {images.format(number): masks.format(number) for number in range(1, 11)}
    assert (len(data.splits['train']), len(data.splits['val'])) == (8, 2)
    labels = first_sample(data, tmp_path / 'out')['gt_seg_map']
    assert np.array_equal(labels, blocks([0, 1, 2]))


def test_folders_called_as_the_classes_are_classes(tmp_path: Path) -> None:
    for split, count in (('train', 3), ('val', 2)):
        for name in ('cat', 'dog'):
            for number in range(count):
                photo(tmp_path / split / name / f'{number}.jpg')
    data = understand(tmp_path)
    assert (data.task, data.classes) == ('cls', ('cat', 'dog'))
    assert {split: len(samples) for split, samples in data.splits.items()} == {'train': 6, 'val': 4}
    assert first_sample(data, tmp_path / 'out', 'val')['gt_label'] == 0


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='holds no image'):
        understand(tmp_path)
