"""Files that are called images and are something else: programs, pipes, bombs."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

pytest.importorskip('mmcv')

from mmvit_ext.datasets import LoadImageFromFile, LoadSegAnnotations
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import IMAGE_FORMATS, open_image
from mmvit_ext.submission.run import image_size

PROGRAM = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\nshowpage\n%%EOF\n'


def load_image(path):
    return LoadImageFromFile()({'img_path': str(path)})


def load_labels(path):
    return LoadSegAnnotations()({'seg_map_path': str(path), 'seg_fields': [], 'reduce_zero_label': False})


OPENERS = {'image': load_image, 'label map': load_labels, 'test server': image_size}


@pytest.mark.parametrize('opener', OPENERS)
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif'])
def test_a_program_in_an_image_file_starts_no_interpreter(opener, suffix, tmp_path, monkeypatch):
    marker, fake = tmp_path / 'ran', tmp_path / 'gs'
    fake.write_text(f'#!/bin/sh\ntouch {marker}\n')
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', str(fake))
    (tmp_path / f'x.{suffix}').write_bytes(PROGRAM)
    with pytest.raises(UserError, match=rf'x\.{suffix}'):
        OPENERS[opener](tmp_path / f'x.{suffix}')
    assert not marker.exists()


def test_the_formats_are_those_of_the_suffixes_that_a_folder_is_searched_for(tmp_path):
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    for name in IMAGE_FORMATS:
        Image.fromarray(pixels).save(tmp_path / 'a.dat', format=name, **({'lossless': True} if name == 'WEBP' else {}))
        assert load_image(tmp_path / 'a.dat')['img'].shape == (5, 7, 3)
    for name in ('ICO', 'PCX', 'SGI', 'TGA', 'IM'):  # harmless, but nobody's photographs
        Image.fromarray(pixels).resize((32, 32)).save(tmp_path / 'a.dat', format=name)
        with pytest.raises(UserError, match=r'a\.dat cannot be decoded'):
            load_image(tmp_path / 'a.dat')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
@pytest.mark.parametrize('opener', OPENERS)
def test_a_pipe_is_refused_instead_of_waited_for(opener, tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(UserError, match=r'pipe\.png is a named pipe'):
        OPENERS[opener](tmp_path / 'pipe.png')


@pytest.mark.parametrize('opener', OPENERS)
def test_a_small_file_of_a_huge_picture_is_refused(opener, tmp_path):
    stream = io.BytesIO()
    Image.new('L', (3, 3)).save(stream, 'PNG')
    content = bytearray(stream.getvalue())
    content[16:24] = (40_000).to_bytes(4, 'big') * 2  # width and height of the header
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    (tmp_path / 'bomb.png').write_bytes(content)
    with pytest.raises(UserError, match=r'bomb\.png .*1600000000 pixels'):
        OPENERS[opener](tmp_path / 'bomb.png')


def test_every_place_of_the_package_and_the_tools_that_opens_images_names_the_formats():
    root = Path(__file__).parents[2]
    found = [
        f'{path.relative_to(root)}:{number}'
        for folder in ('mmvit_ext', 'tools')
        for path in (root / folder).rglob('*.py')
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        if 'Image.open(' in line and 'formats=' not in line
    ]
    assert not found
    with pytest.raises(OSError, match='identify'):
        open_image(io.BytesIO(PROGRAM))


def test_a_sample_of_a_dataset_needs_its_label_map_and_an_image_alone_does_not():
    image = np.zeros((3, 4, 3), np.uint8)
    assert 'gt_seg_map' not in LoadSegAnnotations()({'img': image})
    with pytest.raises(UserError, match=r'a\.jpg has no label map: set data_prefix\.seg_map_path'):
        LoadSegAnnotations()({'img_path': 'a.jpg', 'sample_idx': 0})
    loader = LoadImageFromFile()
    assert loader(image)['ori_shape'] == loader({'img': image})['img_shape'] == (3, 4)


def test_classes_that_a_dataset_leaves_out_get_the_value_of_pixels_without_a_label(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 99]], np.uint8)).save(tmp_path / 'a.png')
    results = {'seg_map_path': str(tmp_path / 'a.png'), 'seg_fields': [], 'reduce_zero_label': False}
    results['label_map'] = {0: 255, 1: 0, 2: 1}  # as mmseg writes it
    loaded = LoadSegAnnotations(num_classes=2, ignore_index=99)(results)['gt_seg_map']
    assert loaded.tolist() == [[99, 0, 1, 99]]
    with pytest.raises(ValueError, match='ignore_index must be 0 to 255'):
        LoadSegAnnotations(ignore_index=-1)
