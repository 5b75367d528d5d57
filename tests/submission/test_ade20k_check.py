"""Archives for the ADE20K benchmark: a correct one has no faults, and every way of breaking it is found and named."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.submission.check import check_archive

SIZES = {'ADE_test_00000001': (31, 43), 'ADE_test_00000002': (37, 29), 'ADE_test_00000005': (23, 41)}
Maps = dict[str, bytes]


def labels(size: tuple[int, int]) -> np.ndarray:
    values = np.random.default_rng(size[0]).integers(1, 151, size).astype(np.uint8)
    values[0, :2] = 1, 150
    return values


def encode(image: Image.Image, kind: str = 'PNG') -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def png(values: np.ndarray) -> bytes:
    return encode(Image.fromarray(values))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / 'testing'
    folder.mkdir()
    for name, size in SIZES.items():
        Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(folder / f'{name}.jpg')
    return folder


def maps() -> Maps:
    return {f'{name}.png': png(labels(size)) for name, size in SIZES.items()}


def write(folder: Path, content: Maps) -> Path:
    path = folder / 'submission.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_a_correct_archive_has_no_faults(images: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, maps()), images=images)
    assert report.faults == []
    assert report.notes == []
    assert '3 label maps' in report.content


def test_without_the_images_it_says_what_was_not_checked(tmp_path: Path) -> None:
    content = maps()
    del content['ADE_test_00000005.png']
    report = check_archive(write(tmp_path, content))
    assert report.faults == []
    assert 'not checked' in report.notes[0]


def test_without_the_images_names_have_to_be_those_of_the_benchmark(tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, {'1.png': png(labels((31, 43)))}))
    assert [fault.kind for fault in report.faults] == ['name']


FIRST = 'ADE_test_00000001.png'


def replace(make: Callable[[np.ndarray], bytes]) -> Callable[[Maps], Maps]:
    """Another file in place of the first label map."""
    return lambda content: {**content, FIRST: make(labels(SIZES[FIRST.removesuffix('.png')]))}


def rename(name: str) -> Callable[[Maps], Maps]:
    return lambda content: {name if key == FIRST else key: value for key, value in content.items()}


def without_first(content: Maps) -> Maps:
    return {key: value for key, value in content.items() if key != FIRST}


def palette(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image.putpalette([*range(256)] * 3)
    return encode(image)


def above(values: np.ndarray) -> np.ndarray:
    return np.where(values == 150, 151, values).astype(np.uint8)


# Kinds of the faults, words of one reason, and how correct label maps become wrong.
BROKEN: dict[str, tuple[set[str], str, Callable[[Maps], Maps]]] = {
    'missing': ({'missing label map'}, 'has no label map', without_first),
    'extra': ({'extra label map'}, 'no image', lambda content: {**content, 'ADE_test_00000003.png': content[FIRST]}),
    'name of another image': ({'extra label map', 'missing label map'}, 'no image', rename('ADE_test_00000011.png')),
    'jpg in the name': ({'extra label map', 'missing label map'}, 'no image', rename('ADE_test_00000001.jpg.png')),
    'in a folder': ({'folder'}, 'at the top', rename(f'results/{FIRST}')),
    'other file': ({'extra file'}, 'PNG files only', lambda content: {**content, 'list.txt': b'1'}),
    'size swapped': ({'size'}, '43x31 pixels (height x width), its image 31x43', replace(lambda v: png(v.T.copy()))),
    'size of the network': ({'size'}, '62x86', replace(lambda v: png(v.repeat(2, 0).repeat(2, 1)))),
    'colours': ({'colour mode'}, 'RGB', replace(lambda v: png(np.stack([v] * 3, axis=-1)))),
    'palette': ({'colour mode'}, 'mode P', replace(palette)),
    '16 bits': ({'colour mode'}, 'expected L', replace(lambda v: png(v.astype(np.uint16)))),
    'labels from 0': ({'labels'}, 'the label 0', replace(lambda v: png(v - 1))),
    'label 151': ({'labels'}, 'the label 151', replace(lambda v: png(above(v)))),
    'ignored label 255': ({'labels'}, 'the label 255', replace(lambda v: png(np.where(v == 7, 255, v).astype('u1')))),
    'cut off': ({'unreadable label map'}, 'decoded', replace(lambda v: png(v)[:-40])),
    'no picture': ({'unreadable label map'}, 'decoded', replace(lambda v: b'nothing')),
    'jpeg': ({'unreadable label map'}, 'no PNG file', replace(lambda v: encode(Image.fromarray(v * 0), 'JPEG'))),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_archive_is_refused_with_its_reason(case: str, images: Path, tmp_path: Path) -> None:
    kinds, reason, apply = BROKEN[case]
    report = check_archive(write(tmp_path, apply(maps())), images=images)
    assert {fault.kind for fault in report.faults} == kinds, report.lines()
    assert any(reason in fault.reason for fault in report.faults), report.lines()
    sound = {f'{name}.png' for name in SIZES} - {FIRST}
    assert not sound & {fault.where for fault in report.faults}


def test_an_image_that_is_turned_by_its_exif_data_has_the_size_it_is_seen_in(images: Path, tmp_path: Path) -> None:
    path = images / 'ADE_test_00000001.jpg'
    with Image.open(path) as image:
        image.load()
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert check_archive(write(tmp_path, maps()), images=images).faults == []


def test_an_empty_archive_is_refused(images: Path, tmp_path: Path) -> None:
    report = check_archive(write(tmp_path, {}), images=images)
    assert [fault.kind for fault in report.faults] == ['archive']


def test_an_image_list_of_coco_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--annotations is for COCO'):
        check_archive(write(tmp_path, maps()), annotations='list.json')
