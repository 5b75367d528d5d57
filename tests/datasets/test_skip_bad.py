"""Bad samples that are left out: which ones, how many, and never in an evaluation."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmvit_ext.datasets.skip_bad import SkipBadSamples
from mmvit_ext.datasets.transforms import LoadImageFromFile, is_cut_off
from mmvit_ext.errors.user_error import UserError


class Pictures(BaseDataset):
    """Images of a folder, through a pipeline."""

    def load_data_list(self) -> list[dict[str, Any]]:
        folder = Path(self.data_prefix['img_path'])
        return [{'img_path': str(path), 'number': index} for index, path in enumerate(sorted(folder.iterdir()))]


def encoded(kind: str, seed: int, size: tuple[int, int] = (40, 48), **options: Any) -> bytes:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, of which numbers 3, 4 and 8 are bad."""
    root = tmp_path / 'images'
    root.mkdir()
    for index in range(12):
        content = encoded('jpeg', index)
        content = {3: content[: len(content) // 2], 4: b'', 8: b'no image'}.get(index, content)
        (root / f'{index:02}.jpg').write_bytes(content)
    return root


def pictures(folder: Path, load: Callable | dict | None = None, **options: Any) -> Pictures:
    steps = [load or LoadImageFromFile(), lambda results: results['number']]
    return Pictures(ann_file='', data_prefix={'img_path': str(folder)}, pipeline=steps, **options)


def test_the_next_good_sample_takes_the_place_of_a_bad_one(folder: Path) -> None:
    dataset = SkipBadSamples(pictures(folder), limit=3)
    assert [dataset[index] for index in range(12)] == [0, 1, 2, 5, 5, 5, 6, 7, 9, 9, 10, 11]
    assert dataset.num_skipped == 3
    assert len(dataset) == 12


def test_a_bad_sample_at_the_end_is_replaced_by_the_first(folder: Path) -> None:
    (folder / '11.jpg').write_bytes(b'')
    assert SkipBadSamples(pictures(folder), limit=4)[11] == 0


def test_without_the_wrapper_the_first_one_ends_the_run(folder: Path) -> None:
    with pytest.raises(UserError, match=r'03\.jpg cannot be decoded'):
        [pictures(folder)[index] for index in range(12)]


@pytest.mark.parametrize('limit', [2, 0.2])
def test_more_than_the_limit_is_an_error_that_names_the_last(limit: float, folder: Path) -> None:
    dataset = SkipBadSamples(pictures(folder), limit=limit)
    with pytest.raises(UserError, match=r'3 of 12 samples could not be read, more than the limit .*08\.jpg'):
        [dataset[index] for index in range(12)]


@pytest.mark.parametrize('workers', [0, 2])
def test_the_count_is_of_different_samples_whatever_the_number_of_workers(workers: int, folder: Path) -> None:
    dataset = SkipBadSamples(pictures(folder), limit=3)
    for _ in range(2):
        numbers = [int(number) for batch in DataLoader(dataset, batch_size=2, num_workers=workers) for number in batch]
        assert numbers == [0, 1, 2, 5, 5, 5, 6, 7, 9, 9, 10, 11]
    assert dataset.num_skipped == 3


def test_an_error_in_a_batch_that_nobody_asked_for_is_not_forgotten(folder: Path) -> None:
    dataset = SkipBadSamples(pictures(folder), limit=1)
    with pytest.raises(UserError, match='more than the limit'):
        dataset[3]
    with pytest.raises(UserError, match=r'more than the limit .*03\.jpg, which was found before'):
        dataset[3]
    assert dataset[0] == 0


def test_each_bad_sample_is_read_in_vain_once(folder: Path) -> None:
    reads: list[str] = []

    def load(results: dict[str, Any]) -> dict[str, Any]:
        reads.append(Path(results['img_path']).name)
        return LoadImageFromFile()(results)

    dataset = SkipBadSamples(pictures(folder, load), limit=3, check_files=False)
    for _ in range(3):
        assert dataset[3] == 5
    assert reads == ['03.jpg', '04.jpg', '05.jpg', '05.jpg', '05.jpg']


def test_a_cut_off_file_is_left_out_with_opencv(folder: Path) -> None:
    # Some versions of OpenCV refuse it, which the libraries' loader cannot skip; others decode the half that is there.
    dataset = SkipBadSamples(pictures(folder, {'type': 'LoadImageFromFile'}), limit=3)
    assert [dataset[index] for index in range(12)] == [0, 1, 2, 5, 5, 5, 6, 7, 9, 9, 10, 11]
    ours = SkipBadSamples(pictures(folder, LoadImageFromFile(imdecode_backend='cv2')), limit=3)
    assert ours[3] == 5


def test_a_decoder_that_is_content_with_half_a_file_does_not_get_it(folder: Path) -> None:
    content = pictures(folder, lambda results: results)
    assert SkipBadSamples(content, limit=3)[3] == 4
    assert SkipBadSamples(content, limit=3, check_files=False)[3] == 3


def test_a_fault_of_the_program_is_no_bad_sample(folder: Path) -> None:
    def broken(results: dict[str, Any]) -> int:
        return results['no such key']

    with pytest.raises(KeyError, match='no such key'):
        SkipBadSamples(pictures(folder, broken), limit=12)[0]


def test_a_dataset_without_one_good_sample_ends(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b'')
    with pytest.raises(UserError, match='none of the 12 samples'):
        SkipBadSamples(pictures(folder), limit=100)[0]


def test_an_evaluation_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match='a metric would count other samples twice'):
        SkipBadSamples(pictures(folder, test_mode=True))


@pytest.mark.parametrize('limit', [0, -1, True, float('nan'), float('inf')])
def test_a_limit_that_is_none_is_refused(limit: float, folder: Path) -> None:
    with pytest.raises(ValueError, match='limit must be'):
        SkipBadSamples(pictures(folder), limit=limit)


def test_a_config_builds_it_and_samplers_see_the_dataset_within(folder: Path) -> None:
    DATASETS.register_module(module=Pictures, name='PicturesOfSkipBad', force=True)
    inner = {
        'type': 'PicturesOfSkipBad',
        'ann_file': '',
        'data_prefix': {'img_path': str(folder)},
        'metainfo': {'classes': ('a',)},
        'lazy_init': True,
    }
    dataset = DATASETS.build({'type': 'mmvit_ext.SkipBadSamples', 'dataset': inner, 'limit': 3})
    dataset.full_init()
    assert dataset.metainfo['classes'] == ('a',)
    assert dataset.get_data_info(5)['number'] == 5
    assert torch.equal(dataset._bad, torch.zeros(12, dtype=torch.uint8))


# Files that are cut off


def with_thumbnail(content: bytes) -> bytes:
    """A JPEG with another one, complete, in a segment before the picture."""
    thumbnail = b'Exif\0\0' + encoded('jpeg', 1, (8, 8))
    return content[:2] + b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail + content[2:]


@pytest.mark.parametrize('kind', ['jpeg', 'progressive', 'thumbnail', 'png'])
def test_a_cut_off_file_is_found_wherever_it_was_cut(kind: str) -> None:
    content = encoded('png' if kind == 'png' else 'jpeg', 0, progressive=kind == 'progressive')
    if kind == 'thumbnail':
        content = with_thumbnail(content)
        assert Image.open(io.BytesIO(content)).size == (48, 40)
    assert not is_cut_off(content)
    assert not is_cut_off(content + b'\0' * 7)  # cameras pad their files
    for length in range(8, len(content) - 4, 37):
        assert is_cut_off(content[:length]), length


def test_other_formats_are_left_to_their_decoders() -> None:
    assert not is_cut_off(encoded('bmp', 0)[:100])
    assert not is_cut_off(b'')
