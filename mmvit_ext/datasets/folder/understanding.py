"""Find out what a folder holds: evidence for each task is looked for, and what covers most images is taken."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from .class_names import ClassNames, read_class_names
from .data import LEFT_OUT, FolderData, Object, Report, Sample, shown
from .index import Header, Index, sample_of
from .labels import Labelled, class_indices, read_class_folders, read_table
from .objects import Found, read_coco, read_voc, read_yolo
from .pairing import pair_masks
from .splits import read_lists, split_samples
from .values import MaskClasses, find_classes
from .words import Places

__all__ = ['understand']

TASKS = {
    'seg': 'semantic segmentation',
    'det': 'object detection',
    'inst': 'instance segmentation',
    'cls': 'classification',
}
MOST_HEADERS = 5000
"""Images to be classified that are looked at; of larger folders a sample."""


def understand(folder: str | Path, *, task: str | None = None, seed: int = 0, val_share: float = 0.2) -> FolderData:
    """Find out the task, the classes and the splits of a folder of images and annotations, without writing anything.

    Args:
        folder: Where images and annotations are, in any layout that its files explain.
        task: ``'seg'``, ``'det'``, ``'inst'`` or ``'cls'``; ``None`` takes what the annotations allow.
        seed: Of the split, where the folder has none.
        val_share: Part of the images that validates then, above 0 and below 1.

    Returns:
        What was understood; its ``notes`` and ``doubts`` are sentences for the user.

    Raises:
        UserError: There are no annotations for a task, or too many mistakes in them; names files and remedy.
    """
    if task not in (None, *TASKS):
        raise UserError(f'the task {task!r} is not known: expected one of {", ".join(TASKS)}')
    if not 0 < val_share < 1:
        raise UserError(f'val_share is {val_share}: expected a part of the images above 0 and below 1')
    root = Path(folder).expanduser().absolute()
    index, report = Index(root), Report()
    places, names = Places([*index.pictures, *index.texts]), read_class_names(index)
    table = read_table(index, report) if task in (None, 'seg', 'cls') else None
    found = _objects(index, places, names, report) if task in (None, 'det', 'inst') else None
    masks = _masks(index, places, table, report, task, found)
    if masks and (found is None or len(masks[0]) >= (1 - LEFT_OUT) * len(found.objects)):
        if found is not None:
            report.doubts.append(f'there are boxes, too ({found.layout}): pass --task det to train a detector')
        data = _seg(index, masks, names, report)
    elif found is not None:
        if masks:
            report.doubts.append('there are masks for some of the images, too: pass --task seg to train on these')
        data = _det(index, places, found, report, task)
    elif task in (None, 'cls'):
        data = _cls(index, places, table, names, report)
    else:
        raise _nothing(index, task)
    return _finish(index, report, *data, seed=seed, val_share=val_share)


def _nothing(index: Index, task: str | None) -> UserError:
    wanted = f' for {TASKS[task]}' if task else ''
    return UserError(
        f'no annotations{wanted} were recognised among the {len(index.pictures)} images and {len(index.texts)} text '
        f'files of {index.root}: expected masks beside or parallel to the images, a COCO JSON, XML files of PASCAL '
        'VOC, text files of YOLO, a CSV of paths, or a folder for each class'
    )


def _objects(index: Index, places: Places, names: ClassNames, report: Report) -> Found | None:
    return read_coco(index, report) or read_voc(index, report) or read_yolo(index, places, names, report)


_Masks = tuple[dict[str, str], list[str], list[str], dict[str, str]]


def _masks(
    index: Index, places: Places, table: Labelled | None, report: Report, task: str | None, found: Found | None
) -> _Masks | None:
    """Pairs, photographs and masks without partner, and the splits that a table says."""
    if task not in (None, 'seg'):
        return None
    if table is not None and table.masks:
        report.notes.append(f'pairs of image and mask: from the {table.layout}')
        return table.masks, [], [], table.splits
    if table is not None and table.labels and task is None:
        return None
    try:
        pairs, unpaired, lone = pair_masks(index, places, report)
    except UserError:
        if found is not None and task is None:
            return None
        raise
    return (pairs, unpaired, lone, {}) if pairs else None


_Data = tuple[str, str, list[Sample], tuple[str, ...], dict[str, Any]]
"""Task, layout, samples, classes and further fields of the result."""


def _usable(index: Index, paths: Sequence[str], report: Report, role: str) -> dict[str, Header]:
    """Headers of the pictures that can be opened; the others are left out."""
    headers = index.headers(paths)
    bad = [f'{path} ({header.problem})' for path, header in headers.items() if header.problem]
    report.leave_out(bad, len(paths), f'{role} are broken', 'replace them')
    return {path: header for path, header in headers.items() if not header.problem}


def _seg(index: Index, masks: _Masks, names: ClassNames, report: Report) -> _Data:
    pairs, unpaired, lone, said = masks
    report.leave_out(unpaired, len(pairs) + len(unpaired), 'images have no mask', 'add their masks')
    if lone:
        report.doubts.append(f'{len(lone)} masks have no image and are not used: {shown(lone)}')
    images = _usable(index, list(pairs), report, 'images')
    readable = _usable(index, [pairs[path] for path in images], report, 'masks')
    pairs = {image: mask for image, mask in pairs.items() if image in images and mask in readable}
    other = [
        f'{mask} ({_size(readable[mask].size)}, its image {image} {_size(images[image].size)})'
        for image, mask in pairs.items()
        if readable[mask].size != images[image].size
    ]
    report.leave_out(other, len(pairs), 'masks are not of the size of their image', 'save both at one size')
    pairs = {image: mask for image, mask in pairs.items() if readable[mask].size == images[image].size}
    found = find_classes(index, list(pairs.values()), names, report, known=_known(index, list(pairs.values())))
    bad = set(found.bad)
    pairs = {image: mask for image, mask in pairs.items() if mask not in bad}
    places = Places([*index.pictures, *index.texts])
    lists = {} if said else read_lists(index, list(pairs), report, prefer='segmentation')
    splits = said or lists or {image: split for image in pairs if (split := places.read(image).split)}
    samples = [Sample(path, images[path].size, splits.get(path), mask=mask) for path, mask in pairs.items()]
    folders = _folders(pairs.values())
    layout = f'photographs in {_folders(pairs)} and masks in {folders}'
    more = {'palette': found.palette, 'load_annotations': found.step, 'background': found.background, 'found': found}
    return 'seg', layout, samples, found.names, more


def _known(index: Index, masks: Sequence[str]) -> str | None:
    """The public dataset whose numbers the masks hold, as far as their names tell."""
    text = f'{index.root.name}/{masks[0]}'.lower()
    if 'gtfine' in text or 'gtcoarse' in text:
        return (
            'Cityscapes (training ids)'
            if 'trainids' in text
            else 'Cityscapes (19 classes)'
            if 'labelids' in text
            else None
        )
    if 'adechallenge' in text:
        return 'ADE20K'
    if 'segmentationclass' in text:
        with open_image(index.root / masks[0]) as image:
            colours = np.array((image.getpalette() or []) + [0] * 9)[:9].tolist()
        if colours == [0, 0, 0, 128, 0, 0, 0, 128, 0]:
            return 'PASCAL VOC'
    return None


def _det(index: Index, places: Places, found: Found, report: Report, task: str | None) -> _Data:
    if task == 'inst' and not found.masks:
        raise UserError(
            f'{index.root} has boxes but no masks of its objects ({found.layout}): pass --task det, or add polygons'
        )
    kind = task or ('inst' if found.masks else 'det')
    headers = _usable(index, list(found.objects), report, 'images')
    photos = [path for path in index.pictures if not places.read(path).is_mask]
    without = [path for path in photos if path not in found.objects]
    if without and 'YOLO' in found.layout:
        report.doubts.append(
            f'{len(without)} of {len(photos)} images have no text file and are taken as images without objects: '
            f'{shown(without)}; remove them if their labels are missing'
        )
        headers |= _usable(index, without, report, 'images')
    elif without:
        report.doubts.append(f'left out {len(without)} of {len(photos)} images without annotation: {shown(without)}')
    if not any(found.objects.values()):
        raise UserError(f'the {found.layout} of {index.root} hold no object: add annotations')
    lists = {} if found.splits else read_lists(index, list(headers), report, prefer='main')
    splits = found.splits or lists or {path: split for path in headers if (split := places.read(path).split)}
    samples = []
    for path, header in headers.items():
        items = [
            Object(o.label, o.box, None, None, o.crowd) if kind == 'det' else o for o in found.objects.get(path, ())
        ]
        samples.append(Sample(path, header.size, splits.get(path), objects=tuple(items)))
    whole = len(headers) == len(found.objects)
    return kind, found.layout, samples, found.classes, {'json_files': found.json_files if whole else {}}


def _cls(index: Index, places: Places, table: Labelled | None, names: ClassNames, report: Report) -> _Data:
    found = table if table is not None and table.labels else read_class_folders(index, places, report)
    if found is None:
        raise _nothing(index, None)
    looked_at = sample_of(list(found.labels), MOST_HEADERS, 0)
    good = _usable(index, looked_at, report, 'images')
    if len(looked_at) < len(found.labels):
        report.doubts.append(
            f'{len(looked_at)} of {len(found.labels)} images were looked at: a broken one among the others ends the '
            'training with its name'
        )
    labels = {path: label for path, label in found.labels.items() if path in good or path not in set(looked_at)}
    classes, numbers = class_indices(labels, names, report)
    lists = {} if found.splits else read_lists(index, list(labels), report, prefer='main')
    splits = found.splits or lists or {path: split for path in labels if (split := places.read(path).split)}
    size = next(iter(good.values())).size
    samples = [
        Sample(path, good[path].size if path in good else size, splits.get(path), label=numbers[path])
        for path in labels
    ]
    return 'cls', found.layout, samples, classes, {}


def _finish(
    index: Index,
    report: Report,
    task: str,
    layout: str,
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    more: dict[str, Any],
    *,
    seed: int,
    val_share: float,
) -> FolderData:
    found: MaskClasses | None = more.pop('found', None)
    splits = split_samples(samples, report, seed=seed, val_share=val_share)
    _tell_classes(splits, classes, found, report)
    sized = sorted((sample.size for sample in samples), key=lambda size: (size[0] * size[1], size))
    sizes = sized[0], sized[len(sized) // 2], sized[-1]
    looked_at = sample_of([sample.image for sample in samples], MOST_HEADERS, 0)
    channels, bits = _channels(index, looked_at, report)
    json_files = more.pop('json_files', {})
    if set(json_files) != set(splits):
        json_files = {}
    counts = ', '.join(f'{len(items)} {split}' for split, items in splits.items())
    notes = [
        f'task: {TASKS[task]}',
        f'layout: {layout}',
        f'images: {counts}',
        f'{len(classes)} classes: {shown(classes, 20)}',
        f'sizes: {_size(sizes[0])} to {_size(sizes[2])}, median {_size(sizes[1])}; {channels} channels of {bits} bits',
        *report.notes,
    ]
    if sum(index.ignored.values()):
        said = ' and '.join(f'{count} {kind}' for kind, count in index.ignored.items() if count)
        notes.append(f'files that are not read: {said}')
    more.setdefault('palette', None)
    return FolderData(
        index.root,
        task,
        layout,
        classes,
        splits=splits,
        channels=channels,
        bits=bits,
        sizes=sizes,
        notes=tuple(notes),
        doubts=tuple(report.doubts),
        json_files=json_files,
        **more,
    )


def _tell_classes(
    splits: Mapping[str, Sequence[Sample]], classes: Sequence[str], found: MaskClasses | None, report: Report
) -> None:
    """Say which classes do not occur where they should."""
    occurring: dict[str, set[int]] = {}
    for split, samples in splits.items():
        occurring[split] = {sample.label for sample in samples if sample.label is not None}
        for sample in samples:
            occurring[split] |= {item.label for item in sample.objects}
            occurring[split] |= found.found.get(sample.mask or '', set()) if found else set()
    everywhere = set().union(*occurring.values())
    never = [name for number, name in enumerate(classes) if number not in everywhere]
    if never:
        report.doubts.append(
            f'classes that never occur: {shown(never)}; take them out of the names if they are not wanted'
        )
    late = [name for number, name in enumerate(classes) if number in everywhere - occurring.get('train', set())]
    if late:
        report.doubts.append(f'classes that do not occur in the training images and cannot be learned: {shown(late)}')


def _channels(index: Index, paths: Sequence[str], report: Report) -> tuple[int, int]:
    """Channels of the images as they are to be loaded, and bits of each."""
    headers = [(path, header) for path, header in index.headers(paths).items() if not header.problem]
    modes = Counter('L' if header.mode in ('1', 'L') or header.bits > 8 else header.mode for _, header in headers)
    bits = max(header.bits for _, header in headers)
    if bits > 8 and any(header.bits == 8 for _, header in headers):
        raise UserError(f'{index.root} has images of 8 and of 16 bits: save them alike')
    if set(modes) == {'L'}:
        return 1, bits
    if set(modes) == {'RGBA'}:
        some = sample_of([path for path, _ in headers], 20, 0)
        if any(_alpha_varies(index.root / path) for path in some):
            report.doubts.append(
                'the images have a fourth channel that varies: all four are used; save RGB to use three'
            )
            return 4, bits
    if len(modes) > 1:
        kinds = ', '.join(f'{count} {mode}' for mode, count in modes.most_common())
        report.notes.append(f'images of several kinds ({kinds}) are all loaded as RGB')
    return 3, bits


def _alpha_varies(path: Path) -> bool:
    with open_image(path) as image:
        low, high = Image.Image.getextrema(image.getchannel('A'))
    return low != high


def _folders(paths: Iterable[str]) -> str:
    """The folders that files lie in, the common part of deeper ones."""
    parents = {PurePosixPath(path).parent for path in paths}
    tops = {parent.parts[:1] for parent in parents}
    if len(parents) > 2 and len(tops) == 1 and tops != {()}:
        return f'{next(iter(tops))[0]}/ (in {len(parents)} folders)'
    return shown(sorted(f'{parent}/' if str(parent) != '.' else 'the folder itself' for parent in parents), 3)


def _size(size: tuple[int, int]) -> str:
    return f'{size[1]}x{size[0]}'
