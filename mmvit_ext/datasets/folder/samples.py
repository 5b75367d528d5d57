"""The samples of a folder for each task, without what is broken or does not fit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames, is_no_label
from .data import Object, Report, Sample, shown, size_text
from .index import Header, Index, sample_of
from .labels import Labelled, class_indices
from .objects import Found
from .parts import merged_classes
from .splits import read_lists
from .values import BACKGROUND, MOST, MaskClasses, find_classes, voc_colour
from .words import Places

__all__ = ['MOST_HEADERS', 'Understood', 'detection', 'drawn', 'labelled', 'segmentation']

MOST_HEADERS = 5000
"""Images to be classified that are looked at; of larger folders a sample."""


@dataclass
class Understood:
    """What is known before the images are split."""

    task: str
    layout: str
    classes: tuple[str, ...]
    samples: list[Sample]
    masks: MaskClasses | None = None


def _usable(index: Index, paths: Sequence[str], report: Report, role: str) -> dict[str, Header]:
    """Headers of the pictures that can be opened; the others are left out."""
    headers = index.headers(paths)
    wrong = {path: f'{path} ({header.problem})' for path, header in headers.items() if header.problem}
    other = [text for path, text in wrong.items() if ' channels of ' in headers[path].problem]
    report.leave_out(
        other, len(paths), f'{role} have unsupported pixels', 'save 1, 3 or 4 channels of 8 bits, or 1 of 16'
    )
    bad = [text for text in wrong.values() if text not in other]
    report.leave_out(bad, len(paths), f'{role} are broken', 'replace them')
    return {path: header for path, header in headers.items() if not header.problem}


def _unannotated(places: Places, without: Sequence[str], annotated: Iterable[str], report: Report) -> list[str]:
    """The images that should have an annotation: not those of a split or folder where none has one."""
    kinds = {(place.split, PurePosixPath(place.path).parent) for place in map(places.read, annotated)}
    splits, folders = {split for split, _ in kinds}, {folder for _, folder in kinds}
    elsewhere: dict[str, list[str]] = {}
    missing = []
    for path in without:
        place = places.read(path)
        parent = PurePosixPath(path).parent
        if parent not in folders and (
            place.split not in splits or sum(p.startswith(f'{parent}/') for p in without) > 4
        ):
            elsewhere.setdefault(f'{parent}/', []).append(path)
        else:
            missing.append(path)
    for folder, paths in elsewhere.items():
        report.doubts.append(f'{len(paths)} images in {folder} have no annotation and are not used')
    return missing


def _by_place(places: Places, images: Sequence[str]) -> dict[str, str]:
    return {path: split for path in images if (split := places.read(path).split)}


def _splits(index: Index, places: Places, images: Sequence[str], report: Report, prefer: str) -> dict[str, str]:
    return _by_place(places, images) | read_lists(index, images, report, prefer=prefer)


def segmentation(index: Index, places: Places, masks: Labelled, names: ClassNames, report: Report) -> Understood:
    """Images with a mask each, or with one for each of their classes."""
    several = masks.several or {image: [mask] for image, mask in masks.masks.items()}
    listed = {}
    if not masks.splits:
        listed = read_lists(index, list(several), report, prefer='segmentation', others=masks.unpaired)
    unlisted = set(masks.unpaired) - set(listed) if listed else set()
    if unlisted:
        report.doubts.append(f'{len(unlisted)} images are in no list and have no mask, so they are not used')
    unpaired = [image for image in masks.unpaired if image not in unlisted]
    unpaired = _unannotated(places, unpaired, several, report)
    report.leave_out(unpaired, len(several) + len(unpaired), 'images have no mask', 'add their masks')
    if masks.lone:
        report.doubts.append(f'{len(masks.lone)} masks have no image and are not used: {shown(masks.lone)}')
    images = _usable(index, list(several), report, 'images')
    readable = _usable(index, [mask for image in images for mask in several[image]], report, 'masks')
    several = {image: several[image] for image in images if all(mask in readable for mask in several[image])}
    other = {
        image: f'{mask} ({size_text(readable[mask].size)}, its image {image} {size_text(images[image].size)})'
        for image in several
        for mask in several[image]
        if readable[mask].size != images[image].size
    }
    report.leave_out(
        list(other.values()), len(several), 'masks are not of the size of their image', 'save both at one size'
    )
    several = {image: paths for image, paths in several.items() if image not in other}
    pairs = {image: paths[0] for image, paths in several.items()}
    if not pairs:
        raise UserError(f'no image of {index.root} has a mask that can be used: {"; ".join(report.doubts)}')
    if masks.several:
        found, parts = merged_classes(several, report)
    else:
        found = find_classes(index, list(pairs.values()), names, report)
        parts = {}
    bad = set(found.bad)
    pairs = {image: mask for image, mask in pairs.items() if mask not in bad}
    splits = masks.splits or _by_place(places, list(pairs)) | listed
    samples = [
        Sample(image, images[image].size, splits.get(image), mask, parts.get(image, ()))
        for image, mask in pairs.items()
    ]
    kind = 'a mask for each class' if masks.several else 'masks'
    where = [mask for paths in several.values() for mask in paths]
    layout = masks.layout or f'photographs in {_folders(pairs)} and {kind} in {_folders(where)}'
    return Understood('seg', layout, found.names, samples, masks=found)


def detection(index: Index, places: Places, found: Found, report: Report, task: str | None) -> Understood:
    """Images with objects."""
    if task == 'inst' and not found.masks:
        raise UserError(
            f'{index.root} has boxes but no masks of its objects ({found.layout}): pass --task det, or add polygons'
        )
    kind = task or ('inst' if found.masks else 'det')
    headers = _usable(index, list(found.objects), report, 'images')
    photos = [path for path in index.pictures if not places.read(path).is_mask]
    without = [path for path in photos if path not in found.objects]
    without = _unannotated(places, without, found.objects, report)
    if without and found.empty_without:
        report.doubts.append(
            f'{len(without)} of {len(photos)} images have no text file and are taken as images without objects: '
            f'{shown(without)}; remove them if their labels are missing'
        )
        headers |= _usable(index, without, report, 'images')
    elif without:
        report.doubts.append(f'left out {len(without)} of {len(photos)} images without annotation: {shown(without)}')
    if not any(found.objects.values()):
        raise UserError(f'the {found.layout} of {index.root} hold no object: add annotations')
    splits = _splits(index, places, list(headers), report, prefer=found.lists) | found.splits
    samples = []
    for path, header in headers.items():
        items = [
            Object(o.label, o.box, None, None, o.crowd) if kind == 'det' else o for o in found.objects.get(path, ())
        ]
        samples.append(Sample(path, header.size, splits.get(path), objects=tuple(items)))
    return Understood(kind, found.layout, found.classes, samples)


def drawn(index: Index, places: Places, found: Found, report: Report) -> Understood:
    """Images whose label maps are to be drawn from the masks of their objects."""
    known = detection(index, places, found, report, 'inst')
    kept = [name for name in known.classes if name.lower() not in BACKGROUND and not is_no_label(name)]
    classes = ('background', *kept)
    if voids := [name for name in known.classes if is_no_label(name)]:
        report.doubts.append(f'{shown(voids)} means "no label" by its name: call it otherwise if it is a class')
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [255 if is_no_label(name) else numbers.get(name, 0) for name in known.classes]
    if len(classes) > MOST:
        raise UserError(f'{index.root} has {len(classes)} classes, and a label map holds {MOST}: pass --task inst')
    report.doubts.append(
        'label maps are drawn from the masks of objects, with background where there is none and the smaller object '
        'where they overlap: pass --task inst to train on the objects'
    )
    samples = [
        replace(sample, objects=tuple(replace(item, label=labels[item.label]) for item in sample.objects))
        for sample in known.samples
    ]
    colours = tuple(map(voc_colour, range(len(classes))))
    masks = MaskClasses(classes, colours, {'type': 'mmvit_ext.LoadSegAnnotations'}, 0, {'': {0}})
    return Understood('seg', known.layout, classes, samples, masks)


def labelled(index: Index, places: Places, found: Labelled, names: ClassNames, report: Report) -> Understood:
    """Images with a class each."""
    without = _unannotated(places, found.unpaired, found.labels, report)
    total = len(found.labels) + len(without)
    report.leave_out(without, total, 'images are in no class folder', 'move them into one')
    looked_at = sample_of(list(found.labels), MOST_HEADERS, 0)
    good = _usable(index, looked_at, report, 'images')
    if len(looked_at) < len(found.labels):
        report.doubts.append(
            f'{len(looked_at)} of {len(found.labels)} images were looked at: a broken one among the others ends the '
            'training with its name'
        )
    broken = set(looked_at) - set(good)
    labels = {path: label for path, label in found.labels.items() if path not in broken}
    classes, numbers = class_indices(labels, names, report)
    splits = _splits(index, places, list(labels), report, prefer='main') | found.splits
    size = next(iter(good.values())).size
    samples = [
        Sample(path, good[path].size if path in good else size, splits.get(path), label=numbers[path])
        for path in labels
    ]
    return Understood('cls', found.layout, classes, samples)


def _folders(paths: Iterable[str]) -> str:
    """The folders that files lie in, the common part of deeper ones."""
    parents = {PurePosixPath(path).parent for path in paths}
    tops = {parent.parts[:1] for parent in parents}
    if len(parents) > 2 and len(tops) == 1 and tops != {()}:
        return f'{next(iter(tops))[0]}/ (in {len(parents)} folders)'
    return shown(sorted(f'{parent}/' if str(parent) != '.' else 'the folder itself' for parent in parents), 3)
