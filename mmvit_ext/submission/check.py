"""Opening an archive as its test server would, and naming every fault."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import collect_images

from .ade20k_check import check_ade20k
from .coco_check import check_coco
from .faults import Fault, Report
from .run import image_folder
from .splits import image_size, read_coco_split, split_of_images

__all__ = ['check_archive']


def check_archive(
    path: str | Path, *, images: str | Path | None = None, annotations: str | Path | None = None
) -> Report:
    """Find what is wrong with an archive for COCO detection or ADE20K scene parsing; its content says for which.

    Args:
        path: The archive.
        images: The folder of the test images, which names and sizes are compared with.
        annotations: The image list of the split (COCO), instead of the images.

    Returns:
        What was found.

    Raises:
        UserError: There is no such archive, folder or image list.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'there is no archive {path}: check the path')
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        return Report('an unknown file', [Fault('archive', path.name, f'it cannot be opened: {error}')])
    with archive:
        coco = path.stem.startswith('detections_') or any(name.endswith('.json') for name in archive.namelist())
        if annotations is not None and not coco:
            raise UserError(f'--annotations is for COCO, {path} holds label maps: pass --images')
        paths = None if images is None else collect_images([image_folder(images)])
        if coco:
            split = None
            if annotations is not None:
                split = read_coco_split(annotations)
            elif paths is not None:
                split = split_of_images(paths)
            report = check_coco(archive, path.stem, split)
        elif not any(name.endswith('.png') for name in archive.namelist()):
            report = Report('an unknown archive', [Fault('archive', path.name, 'it holds neither JSON nor PNG files')])
        else:
            report = check_ade20k(archive, None if paths is None else {one.stem: image_size(one) for one in paths})
        report.faults[:0] = _layout_faults(archive)
    return report


def _layout_faults(archive: zipfile.ZipFile) -> Iterator[Fault]:
    for name, total in Counter(archive.namelist()).items():
        if '/' in name or '\\' in name:
            yield Fault('folder', name, 'the server looks for files at the top of the archive')
        if total > 1:
            yield Fault('duplicate file', name, f'the archive holds it {total} times')
