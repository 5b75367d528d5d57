"""What the benchmark of ADE20K scene parsing would find wrong with an archive."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from .ade20k import CLASSES
from .faults import Fault, Report

__all__ = ['check_ade20k']

_TEST_NAME = re.compile(r'ADE_(?:test|val)_\d{8}')


def check_ade20k(archive: zipfile.ZipFile, sizes: Mapping[str, tuple[int, int]] | None) -> Report:
    """Read an archive as the benchmark of ADE20K does.

    Args:
        archive: The archive.
        sizes: Height and width in pixels of the test images, by name without suffix; without them, it is not checked
            whether each has a label map of its size.

    Returns:
        What was found.
    """
    names = [name for name in archive.namelist() if not name.endswith('/')]
    maps = [name for name in names if name.endswith('.png')]
    report = Report(f'ADE20K scene parsing ({len(maps)} label maps)')
    for extra in names:
        if extra not in maps:
            report.faults.append(Fault('extra file', extra, 'expected PNG files only'))
    found = set()
    for name in maps:
        stem = name.rpartition('/')[2].removesuffix('.png')
        found.add(stem)
        if sizes is None and not _TEST_NAME.fullmatch(stem):
            reason = 'expected the name of its image, such as ADE_test_00000001.png'
            report.faults.append(Fault('name', name, reason))
        elif sizes is not None and stem not in sizes:
            report.faults.append(Fault('extra label map', name, 'there is no image of that name'))
        size = None if sizes is None else sizes.get(stem)
        report.faults += [Fault(kind, name, reason) for kind, reason in _map_faults(archive, name, size)]
    if sizes is None:
        report.notes.append(
            'not checked, for lack of --images: whether each image has a label map, and whether that has its size'
        )
    else:
        for stem in sorted(set(sizes) - found):
            report.faults.append(Fault('missing label map', f'{stem}.png', 'the image has no label map'))
    return report


def _map_faults(archive: zipfile.ZipFile, name: str, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    try:
        with archive.open(name) as stream, Image.open(stream) as image:
            image.load()
            kind, mode, labels = image.format, image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile) as error:
        yield 'unreadable label map', f'it cannot be decoded: {error}'
        return
    if kind != 'PNG':
        yield 'unreadable label map', f'it is a {kind} file, expected PNG'
    if size is not None and labels.shape[:2] != size:
        rows, columns = labels.shape[:2]
        yield 'size', f'it has {rows}x{columns} pixels (height x width), its image {size[0]}x{size[1]}'
    if mode != 'L':
        yield 'colour mode', f'it has the mode {mode}, expected L: one channel of 8 bits, the label of each pixel'
        return
    if labels.min() < 1:
        yield 'labels', f'it holds the label 0, which is no class: the classes are labelled 1 to {CLASSES}'
    if labels.max() > CLASSES:
        yield 'labels', f'it holds the label {labels.max()}, expected 1 to {CLASSES}'
