"""Find out what a folder holds: evidence for each task is looked for, and what covers most images is taken."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from mmvit_ext.errors.user_error import UserError, printable
from mmvit_ext.files import open_image

from .class_names import ClassNames, read_class_names
from .coco import read_coco
from .data import LEFT_OUT, FolderData, Report, Sample, shown, size_text
from .foreign import set_foreign_aside
from .index import Index, sample_of
from .labels import Labelled, are_classes, read_class_folders, read_table
from .objects import Found
from .pairing import pair_masks
from .parts import ClassMaps, class_names_of, objects_of_masks
from .samples import MOST_HEADERS, Understood, detection, drawn, labelled, segmentation
from .shapes import read_box_tables, read_json, read_xml
from .splits import split_samples
from .values import MaskClasses, find_classes
from .words import Places
from .yolo import read_yolo

__all__ = ['understand']

TASKS = {
    'seg': 'semantic segmentation',
    'det': 'object detection',
    'inst': 'instance segmentation',
    'cls': 'classification',
}


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
    root = Path(os.path.abspath(os.path.expanduser(folder)))
    index = Index(root)
    foreign = set_foreign_aside(index)
    places, names = Places([*index.pictures, *index.texts]), read_class_names(index)
    objects, masks, labels, report = _evidence(index, places, names, task)
    if masks is not None:
        known = segmentation(index, places, masks, names, report)
    elif objects is not None and task == 'seg':
        known = drawn(index, places, objects, report)
    elif objects is not None:
        known = detection(index, places, objects, report, task)
    elif foreign and task != 'cls':
        raise UserError(foreign)
    elif labels is not None:
        known = labelled(index, places, labels, names, report)
    else:
        raise _nothing(index, places, names, task)
    report.doubts += [foreign] * bool(foreign)
    return _finish(index, known, report, seed, val_share)


def _nothing(index: Index, places: Places, names: ClassNames, task: str | None) -> UserError:
    """What was seen of a folder without annotations that are understood, or with those of another task."""
    if task is not None:
        found = zip(('det', 'seg', 'cls'), _evidence(index, places, names, None), strict=False)
        if other := next((kind for kind, part in found if part is not None), None):
            has = f'{index.root} has annotations for {TASKS[other]} and none for {TASKS[task]}'
            return UserError(f'{has}: pass --task {other}, or add what is missing')
    masks = sum(places.read(path).is_mask for path in index.pictures)
    seen = [f'{masks} of the images are called as masks are'] * bool(masks)
    if lines := [line for path in index.texts[:1] for line in index.read(path).splitlines() if line.strip()]:
        seen.append(f'{index.texts[0]} begins with "{printable(lines[0].strip()[:60])}"')
    seen += [f'files that are not read: {index.unread()}'] * bool(index.unread())
    wanted = f' for {TASKS[task]}' if task else ''
    said = f' ({"; ".join(seen)})' if seen else ''
    return UserError(
        f'no annotations{wanted} were recognised among the {len(index.pictures)} images and {len(index.texts)} text '
        f'files of {index.root}{said}: expected masks beside or parallel to the '
        'images, a COCO JSON, XML files of PASCAL VOC, text files of YOLO, a CSV of paths, or a folder for each class; '
        'export the annotations as one of these, or pass --task cls if file names begin with their class'
    )


_Evidence = tuple[Found | None, Labelled | None, Labelled | None, Report]
"""Objects, masks or a table of labels, and what was said about what is used."""


def _evidence(index: Index, places: Places, names: ClassNames, task: str | None) -> _Evidence:
    """What most of the images are annotated with; mistakes in what is not used do not matter."""
    reports = {'objects': Report(), 'masks': Report(), 'table': Report()}
    found: Found | None = None
    masks: Labelled | None = None
    failures: list[UserError] = []
    table = None
    try:
        table = read_table(index, reports['table']) if task in (None, 'seg', 'cls') else None
    except UserError as error:
        if task == 'cls':
            raise
        failures.append(error)
    if task in (None, 'det', 'inst'):
        try:
            found = _objects(index, places, names, reports['objects'])
        except UserError as error:
            failures.append(error)
    if table is not None and table.masks and task in (None, 'seg'):
        masks, reports['masks'] = table, reports['table']
    elif task == 'seg' or (task is None and not (table is not None and table.labels)):
        try:
            masks = pair_masks(index, places, reports['masks'])
            if masks and masks.several and task is None and class_names_of(masks.several) is None:
                found = found or objects_of_masks(index, masks.several, reports['masks'], numbered=False)
                masks, reports['objects'] = None, reports['masks']
        except UserError as error:
            failures.append(error)
    if task == 'seg' and masks is None and not failures:
        found = _objects(index, places, names, reports['objects'])
        found = found if found is not None and found.masks else None
    boxes_only = task == 'inst' and found is not None and not found.masks
    if boxes_only or (found is None and task in ('det', 'inst') and not failures):
        report = Report()
        if numbered := _objects_of_masks(index, places, names, report, with_classes=boxes_only):
            if found is not None:
                report.doubts.append(f'there are boxes, too ({found.layout}): pass --task det to train on them')
            found, reports['objects'] = numbered, report
    if found is not None and masks is not None:
        if len(masks.masks) >= (1 - LEFT_OUT) * len(found.objects):
            reports['masks'].doubts.append(f'there are boxes, too ({found.layout}): pass --task det to train on them')
            found = None
        else:
            reports['objects'].doubts.append(
                f'{len(masks.masks)} images have masks, too: pass --task seg to train on those'
            )
            masks = None
    if masks is not None:
        return None, masks, None, reports['masks']
    if found is not None:
        return found, None, None, reports['objects']
    if failures:
        raise failures[0]
    if task is None and table is not None and any(places.read(path).is_mask for path in index.pictures):
        reports['table'].doubts.append('some images are called as masks are: pass --task seg to train on them')
    return None, None, _labels(index, places, table, reports['table'], task), reports['table']


def _objects_of_masks(
    index: Index, places: Places, names: ClassNames, report: Report, *, with_classes: bool
) -> Found | None:
    """Objects of masks that number them or stand for one each, with their classes where other masks say them."""
    said = Report()
    masks = pair_masks(index, places, said, objects=True)
    if masks is None:
        return None
    several = masks.several or {photo: [mask] for photo, mask in masks.masks.items()}
    kinds = None
    try:
        beside = None if masks.several else pair_masks(index, places, Report())
    except UserError:  # all of them number objects
        beside = None
    pairs = {photo: mask for photo, mask in (beside.masks if beside else {}).items() if mask not in several[photo]}
    if pairs:
        kinds = ClassMaps(index.root, pairs, find_classes(index, list(pairs.values()), names, report))
        several = {photo: paths for photo, paths in several.items() if photo in pairs}
    elif with_classes:
        return None
    else:
        report.doubts += said.doubts
    return objects_of_masks(index, several, report, numbered=not masks.several, kinds=kinds)


def _labels(index: Index, places: Places, table: Labelled | None, report: Report, task: str | None) -> Labelled | None:
    """Classes of images from tables and from the names of folders, which may each say those of a split."""
    if task not in (None, 'cls'):
        return None
    folders = read_class_folders(index, places, report, by_name=task == 'cls')
    if task == 'cls' and folders is not None and any(places.read(path).is_mask for path in folders.labels):
        report.doubts.append('some folders are called as those of masks are: pass --task seg if they hold masks')
    if table is None or not table.labels:
        if folders is not None and task is None and not any(places.read(path).split for path in folders.labels):
            _ask_for_classes(index, folders, report)
        return folders
    if folders is not None and set(table.labels.values()) <= set(folders.labels.values()):
        table.labels = {**folders.labels, **table.labels}
        table.layout = f'{folders.layout}, and {table.layout}'
    return table


def _ask_for_classes(index: Index, folders: Labelled, report: Report) -> None:
    """Say that folders are taken as classes, or refuse to where their names speak against it."""
    names = sorted(set(folders.labels.values()))
    if not are_classes(names, len(folders.labels)):
        raise UserError(
            f'no annotations were recognised among the images of {index.root}, and its {len(names)} folders '
            f'({shown(names)}) are called as dates, series or single cases, not classes: pass --task cls if they '
            'are classes, or add masks, boxes or a table of labels'
        )
    report.doubts.append('there are no masks, boxes or tables, so folders are taken as classes: pass --task cls if so')


def _objects(index: Index, places: Places, names: ClassNames, report: Report) -> Found | None:
    return (
        read_coco(index, report)
        or read_json(index, report)
        or read_xml(index, report)
        or read_box_tables(index, report)
        or read_yolo(index, places, names, report)
    )


def _finish(index: Index, known: Understood, report: Report, seed: int, val_share: float) -> FolderData:
    """Split the samples and say what was understood."""
    task, samples, classes, masks = known.task, known.samples, known.classes, known.masks
    splits = split_samples(samples, report, seed=seed, val_share=val_share)
    _tell_classes(splits, classes, masks, report)
    sized = sorted((sample.size for sample in samples), key=lambda size: (size[0] * size[1], size))
    sizes = sized[0], sized[len(sized) // 2], sized[-1]
    looked_at = sample_of([sample.image for sample in samples], MOST_HEADERS, 0)
    channels, bits = _channels(index, looked_at, report)
    counts = ', '.join(f'{len(items)} {split}' for split, items in splits.items())
    notes = [
        f'task: {TASKS[task]}',
        f'layout: {known.layout}',
        f'images: {counts}',
        f'{len(classes)} classes: {shown(classes, 20)}',
        'sizes: {} to {}, median {}'.format(*(size_text(size) for size in (sizes[0], sizes[2], sizes[1]))),
        f'channels: {channels} of {bits} bits',
        *report.notes,
    ]
    if said := index.unread():
        notes.append(f'files that are not read: {said}')
    return FolderData(
        root=index.root,
        task=task,
        layout=known.layout,
        classes=classes,
        palette=masks.palette if masks else None,
        splits=splits,
        channels=channels,
        bits=bits,
        sizes=sizes,
        background=masks.background if masks else None,
        load_annotations=masks.step if masks else None,
        notes=tuple(notes),
        doubts=tuple(report.doubts),
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
    fractions = [path for path, header in headers if header.mode == 'F']
    if fractions:
        raise UserError(f'{index.root} has images of fractions ({shown(fractions)}): save them with 8 or 16 bits')
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
