"""What the values and colours of masks mean: which are classes, which mean "no label", and which are blurred edges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from ..label_values import pack_colours, unpack_colour
from .class_names import KNOWN, ClassNames, is_no_label
from .data import Report, shown
from .index import Index, in_threads, sample_of
from .pixels import (
    Counted,
    are_colours,
    area_colours,
    as_colours,
    blurred_values,
    cluster,
    count_pixels,
    is_lossy,
    scatter,
    total_pixels,
)

__all__ = ['MOST', 'MaskClasses', 'find_classes', 'voc_colour']

LEAST_MASKS, MOST_PIXELS = 200, 1e8
"""Masks whose pixels are read: at least so many, and all of a folder with no more pixels than that."""

MOST = 255
"""Classes of a map of 8 bits."""

_FEW = 12
"""Number of values that are hardly numbers of objects."""

BACKGROUND = ('background', 'bg', '_background_', 'back')


@dataclass
class MaskClasses:
    """The classes of a folder's masks and how they are read."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    step: dict[str, Any]
    background: int | None
    found: dict[str, set[int]] = field(default_factory=dict)  # indices of the classes in each mask that was read
    bad: list[str] = field(default_factory=list)  # masks with values that are no class


def find_classes(index: Index, masks: Sequence[str], names: ClassNames, report: Report) -> MaskClasses:
    """Find the classes of masks that can be read, of many by a sample; refuses what is no label map."""
    headers = index.headers(masks)
    area = float(np.mean([np.prod(headers[path].size) for path in masks]))
    sample = sample_of(masks, max(LEAST_MASKS, int(MOST_PIXELS / area)), 0)
    counted: list[Counted] = []
    broken: list[str] = []
    for path, item in zip(sample, in_threads(lambda path: _try_to_count(path, index), sample), strict=True):
        if item:
            counted.append(item)
        else:
            broken.append(path)
    report.leave_out(broken, len(sample), 'masks are broken', 'replace them')
    if len(sample) < len(masks):
        report.doubts.append(
            f'classes were looked for in {len(sample)} of {len(masks)} masks: another value in the others ends the '
            'training with the name of the file; name all classes in a file classes.txt if there are more'
        )
    known = _known_dataset(index, masks)
    if known and names.by_id:  # what the folder says of itself counts
        known = None
    elif known == 'PASCAL VOC':
        report.doubts.append(
            'palette and folders are those of PASCAL VOC, so the classes are: a file classes.txt, one name a line from '
            'value 0 on, says otherwise'
        )
    if are_colours(counted):
        found = _colour_classes([as_colours(item) for item in counted], names, report)
    else:
        found = _id_classes(counted, names, report, known)
    found.bad += broken
    if len(found.names) < 2:
        raise UserError(
            f'the masks ({shown([item.path for item in counted])}) hold a single class, {found.names[0]}, from which '
            'nothing can be told apart: give each class its own value or colour (transparency is not read)'
            + ''.join(f'; {doubt}' for doubt in report.doubts if 'by its name' in doubt)
        )
    return found


def _known_dataset(index: Index, masks: Sequence[str]) -> str | None:
    """The public dataset whose numbers the masks hold, as far as their names tell."""
    text = f'{index.root.name}/{masks[0]}'.lower()
    if 'gtfine' in text or 'gtcoarse' in text:
        kinds = {'trainids': 'Cityscapes (training ids)', 'labelids': 'Cityscapes (19 classes)'}
        return next((name for word, name in kinds.items() if word in text), None)
    if 'adechallenge' in text:
        return 'ADE20K'
    if 'segmentationclass' in text:
        with open_image(index.root / masks[0]) as image:
            colours = np.array((image.getpalette() or []) + [0] * 9)[:9].tolist()
        if colours == [0, 0, 0, 128, 0, 0, 0, 128, 0]:
            return 'PASCAL VOC'
    return None


def _try_to_count(path: str, index: Index) -> Counted | None:
    try:
        return count_pixels(path, index.root)
    except Exception:  # Pillow's own depend on the format
        return None


def _colour_classes(counted: Sequence[Counted], names: ClassNames, report: Report) -> MaskClasses:
    pixels, solid = total_pixels(counted)
    total, colours = sum(pixels.values()), area_colours(pixels, solid)
    is_jpeg = is_lossy([item.path for item in counted])
    if lossy := is_jpeg or scatter(pixels, colours):
        colours = cluster(pixels, 3)
    named = {colour: name for colour, name in names.colours.items() if not is_no_label(name)}
    void = set(names.colours) - set(named)
    if named:
        strange = sorted(
            (value for value in colours if value not in names.colours and not lossy), key=lambda v: -pixels[v]
        )
        if strange:
            files = [item.path for item in counted if set(strange) & set(item.pixels)]
            void |= set(strange)
            report.doubts.append(
                f'colours that {names.source} does not name are ignored: {shown([_hex(value) for value in strange])}, '
                f'in {len(files)} masks ({shown(files)}); add them to that file if they are classes'
            )
        colours = list(named)
    else:
        void = {value for value in colours if unpack_colour(value) == (224, 224, 192)}  # VOC's border
        colours = sorted(set(colours) - void)
        if len(names.by_id) == len(colours):
            report.doubts.append(f'the names of {names.source} are given to the colours in the order of their values')
            named = dict(zip(colours, names.by_id.values(), strict=True))
        else:
            report.doubts.append(
                f'the {len(colours)} colours have no names: write a file class_dict.csv with the columns name,r,g,b'
            )
            named = {value: 'background' if value == 0 else f'color_{_hex(value)[1:]}' for value in colours}
            if len(colours) == 2 and colours[0] == 0:
                named[colours[1]] = 'foreground'
    if not 1 <= len(colours) <= MOST:
        raise _no_label_map(counted, f'{len(colours)} colours that fill areas')
    kept = set(colours) | void
    rest = total - sum(pixels[value] for value in kept)
    if not lossy and rest:
        others = len(set(pixels) - kept)
        if rest > 0.2 * total:
            raise _no_label_map(counted, f'{rest / total:.0%} of the pixels in {others} other colours than its classes')
        report.doubts.append(
            f'{others} colours of blurred edges or single pixels, {rest / total:.2%} of all pixels, are ignored (255)'
        )
    labels = tuple(named[value] for value in colours)
    step: dict[str, Any] = {'values': [_hex(value) for value in colours]}
    if lossy:
        step['tolerance'] = 64
        scattered = f'the colours of the masks scatter around {len(colours)}, as those of JPEG files do'
        what = 'the masks are JPEG files, whose colours are noisy' if is_jpeg else scattered
        report.doubts.append(
            f'{what}: pixels take the nearest class, those between two classes none; save masks as PNG from the start'
        )
    order = {value: number for number, value in enumerate(colours)}
    found = {item.path: {order[value] for value in item.pixels if value in order} for item in counted}
    report.notes.append(f'masks: {len(colours)} colours are the classes')
    return MaskClasses(labels, tuple(map(unpack_colour, colours)), _step(step), _background(labels), found)


def _id_classes(counted: Sequence[Counted], names: ClassNames, report: Report, known: str | None) -> MaskClasses:
    pixels, solid = total_pixels(counted)
    indexed = all(item.palette for item in counted)
    ignored: list[int] = []
    step: dict[str, Any] = {}
    values = sorted(pixels)
    if is_lossy([item.path for item in counted]):
        values = sorted(cluster(pixels, 1))
        step['tolerance'] = 64
        report.doubts.append('the masks are JPEG files, whose values are noisy: pixels take the nearest class')
    elif not indexed and max(values) < 256 and blurred_values(pixels, solid):
        # As colours, of which all that are not listed have no label.
        return _colour_classes([as_colours(item) for item in counted], names, report)
    bad: list[str] = []
    by_id, source = names.by_id, names.source
    if known:
        by_id, source = KNOWN[known].ids(), f'the dataset {known}'
        ignored += [value for value in values if value not in by_id and value in KNOWN[known].ignored]
    voids = [number for number, name in by_id.items() if is_no_label(name)]
    if not known and (called := [by_id[number] for number in voids if number in pixels]):
        report.doubts.append(f'{shown(called)} means "no label" by its name: call it otherwise if it is a class')
    ignored += [value for value in voids if value not in ignored]
    by_id = {number: name for number, name in by_id.items() if number not in voids}
    left = [value for value in values if value not in ignored]
    others = [value for value in left if value != 255]
    steps = np.diff(left).tolist()
    even = min(steps, default=0) > 1 and max(steps) - min(steps) <= 2  # 0 and 255, or 0, 128 and 255
    if 255 in left and 255 not in by_id and others and not even:
        ignored.append(255)
        left = others
        report.notes.append('value 255 of the masks is ignored')
    numbered = len(by_id) == 2 and 0 not in by_id and left[-1:] and left[-1] in by_id  # {1: cat, 2: dog}
    if len(left) == 2 and left[0] == 0 and len(by_id) <= 2 and not numbered:
        labels = [*by_id.values()]
        labels = ['background', 'foreground'][: 2 - len(labels)] + labels if len(labels) < 2 else labels
        if left[1] == 255:
            report.doubts.append('value 255 of the masks is taken as the foreground, not as "no label"')
    elif by_id:
        usual = _usual(counted, left)
        beyond = usual - set(by_id)
        if 0 in beyond or (beyond and usual - {0} <= {number + 1 for number in by_id}):
            if 0 not in beyond:  # a list of names has no numbers: the first may be that of value 1
                by_id = {number + 1: name for number, name in by_id.items()}
            ignored.append(0)
            left = [value for value in left if value]
            report.doubts.append(f'{source} names values from {min(by_id)} on: 0 is taken as "no label" and ignored')
        strange = set(left) - set(by_id)
        bad = [item.path for item in counted if strange & set(item.pixels)]
        if bad:
            report.leave_out(
                bad,
                len(counted),
                f'masks with values that {source} does not name ({shown(sorted(strange))})',
                f'correct the masks, or name all classes in a file classes.txt, one a line from 0 to {max(left)}',
            )
        left, labels = list(by_id), list(by_id.values())
    else:
        if not 1 <= len(left) <= MOST:
            raise _no_label_map(counted, f'{len(left)} different values')
        files = Counter(value for item in counted for value in item.pixels)
        single = sum(files[value] == 1 for value in left)
        if len(left) > _FEW and len(counted) > 2 and single > 0.8 * len(left):
            raise UserError(
                f'{len(left)} different values are in the masks ({shown([item.path for item in counted])}), '
                f'and {single} of them in one mask only, as numbers of objects are: pass --task inst to train on '
                'objects, or save one value for each class'
            )
        usual = _usual(counted, left)
        # Beyond a row of values that many have, those of single masks are mistakes rather than classes.
        row = usual == set(range(min(usual), max(usual) + 1))
        strange = {value for value in left if value > max(usual) + 1} if row else set()
        bad = [item.path for item in counted if strange & set(item.pixels)]
        if bad:
            report.leave_out(
                bad,
                len(counted),
                f'masks with values that no other mask has ({shown(sorted(strange))})',
                'correct them, or name all classes in a file classes.txt, one a line from 0 on',
            )
        left = [value for value in left if value not in strange]
        labels = [f'class_{value}' for value in left]
        report.doubts.append(
            f'the values {shown(left, 12)} of the masks have no names: write a file classes.txt, one name a line'
        )
        if left[0] == 0:
            report.doubts.append('value 0 of the masks is taken as a class, as background often is')
    plain = left == list(range(len(left))) and not any(item.in_colour for item in counted)
    if not plain or step.get('tolerance') or ignored not in ([], [255]):
        step['values'] = left
        step['ignored'] = sorted(set(ignored) - {255})
        if left != list(range(len(left))):
            report.notes.append(f'masks: the values {shown(left, 12)} become 0 to {len(left) - 1}')
    step = {key: value for key, value in step.items() if value}
    palette = next((item.palette for item in counted if item.palette), ())
    colours = [palette[value] if value < len(palette) else -1 for value in left]
    if known:
        colours = [pack_colours(np.array(colour)).item() for colour in KNOWN[known].palette()]
    distinct = -1 not in colours and len(set(colours)) == len(colours)
    order = {value: number for number, value in enumerate(left)}
    found = {item.path: {order[value] for value in item.pixels if value in order} for item in counted}
    shades = tuple(map(unpack_colour, colours)) if distinct else tuple(map(voc_colour, range(len(left))))
    return MaskClasses(tuple(labels), shades, _step(step), _background(labels), found, bad)


def _usual(counted: Sequence[Counted], values: Sequence[int]) -> set[int]:
    """The values that are in more than single masks, where there are enough masks to tell."""
    files = Counter(value for item in counted for value in item.pixels)
    least = max(1, 0.01 * len(counted)) if len(counted) >= 10 else 0
    return {value for value in values if files[value] > least} or set(values)


def voc_colour(number: int) -> tuple[int, int, int]:
    """The colour that PASCAL VOC gives to a class index."""
    bits = [[number >> 3 * place + channel & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << 7 - place for place, bit in enumerate(channel)) for channel in bits)
    return red, green, blue


def _step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {'type': 'mmvit_ext.LoadSegAnnotations', **arguments}


def _background(labels: Sequence[str]) -> int | None:
    return next((number for number, name in enumerate(labels) if name.lower() in BACKGROUND), None)


def _hex(colour: int) -> str:
    return f'#{colour:06x}'


def _no_label_map(counted: Sequence[Counted], found: str) -> UserError:
    files = [item.path for item in counted]
    return UserError(
        f'the masks ({shown(files)}) hold {found}, which is no map of at most {MOST} classes: expected one colour or '
        'value for each class, saved as PNG; masks that number objects need a COCO JSON instead'
    )
