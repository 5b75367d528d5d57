"""What the values and colours of masks mean: which are classes, which mean "no label", and which are blurred edges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from ..label_values import pack_colours, unpack_colour
from .class_names import KNOWN, ClassNames, is_no_label
from .data import Report, shown
from .index import Index, in_threads, sample_of

__all__ = ['MaskClasses', 'find_classes', 'looks_like_mask']

LEAST_MASKS, MOST_PIXELS = 200, 3e8
"""Masks whose pixels are read: at least so many, and all of a folder with no more pixels than that."""

_RARE = 0.002
"""Share of the pixels below which a colour that fills no square of 3x3 pixels is a blurred edge."""

_NEAR = 48
"""How far the values of a JPEG lie from what was saved."""

_MOST = 255  # classes of a map of 8 bit

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


@dataclass(frozen=True)
class _Counted:
    path: str
    mode: str  # Pillow's; RGB is L where the three channels are alike
    pixels: Mapping[int, int]
    solid: frozenset[int]  # values that fill a square of 3x3 pixels somewhere
    palette: tuple[int, ...] = ()  # RGB as one number, by value


def _count(path: str, root: Path) -> _Counted:
    with open_image(root / path, 'mask') as image:
        palette: tuple[int, ...] = ()
        if image.mode == 'P':
            colours = np.array(image.getpalette() or [], np.int64).reshape(-1, 3)
            palette = tuple(pack_colours(colours).tolist())
        elif image.mode not in ('1', 'L', 'I') and not image.mode.startswith('I;'):
            image = image.convert('RGB')
        mode, values = image.mode, np.array(image)
    if values.ndim == 3:
        alike = (values[..., :1] == values).all()
        mode, values = ('L', values[..., 0]) if alike else (mode, pack_colours(values))
    return _Counted(path, mode, *_runs(values.astype(np.int32)), palette)


def _runs(values: np.ndarray) -> tuple[dict[int, int], frozenset[int]]:
    """Pixels by value, and the values that fill a square of 3x3 pixels; runs of one value are counted at once."""
    flat = values.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
    found, inverse = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(inverse, np.diff(starts, append=flat.size))
    across = (values[:, 1:] == values[:, :-1])[:, 1:] & (values[:, 1:] == values[:, :-1])[:, :-1]
    down = values[1:] == values[:-1]
    square = across[2:] & across[1:-1] & across[:-2] & (down[1:] & down[:-1])[:, 1:-1]
    solid = values[1:-1, 1:-1][square]
    solid = solid[np.flatnonzero(np.diff(solid, prepend=-1))] if solid.size else solid
    return dict(zip(found.tolist(), pixels.astype(int).tolist(), strict=True)), frozenset(np.unique(solid).tolist())


def looks_like_mask(path: Path) -> bool:
    """Whether most pixels of a picture are of few values, each of which fills areas."""
    try:
        counted = _count(path.name, path.parent)
    except Exception:  # it cannot be decoded, which is said elsewhere
        return False
    total = sum(counted.pixels.values())
    return sum(counted.pixels[value] for value in counted.solid) > 0.8 * total and len(counted.solid) <= _MOST


def find_classes(
    index: Index, masks: Sequence[str], names: ClassNames, report: Report, *, known: str | None = None, seed: int = 0
) -> MaskClasses:
    """Find the classes of masks.

    Args:
        index: The folder.
        masks: All masks, readable.
        names: What files say about the classes.
        report: Told what was understood.
        known: A dataset of :data:`KNOWN` whose ids these are.
        seed: Of the sample that is read of many masks.

    Raises:
        UserError: The masks are no label maps, or hold values that do not fit.
    """
    headers = index.headers(masks)
    area = float(np.mean([np.prod(headers[path].size) for path in masks]))
    sample = sample_of(masks, max(LEAST_MASKS, int(MOST_PIXELS / area)), seed)
    counted: list[_Counted] = in_threads(lambda path: _count(path, index.root), sample)
    if len(sample) < len(masks):
        report.doubts.append(
            f'classes were looked for in {len(sample)} of {len(masks)} masks: another value in the others ends the '
            'training with the name of the file; name all classes in a file classes.txt if there are more'
        )
    if _are_colours(counted):
        return _colour_classes([_as_colours(item) for item in counted], names, report)
    return _id_classes(counted, names, report, known)


def _are_colours(counted: Sequence[_Counted]) -> bool:
    """Whether colours are classes; so they are where one index has different colours in two files' palettes."""
    colours: dict[int, int] = {}
    for item in counted:
        if item.mode == 'RGB':
            return True
        if item.palette:
            for value in item.pixels:
                if value < len(item.palette) and colours.setdefault(value, item.palette[value]) != item.palette[value]:
                    return True
    return False


def _as_colours(item: _Counted) -> _Counted:
    if item.mode == 'RGB':
        return item
    table = item.palette or tuple(range(0, 256 * 65793, 65793))
    top = 255 if item.mode == '1' else 1
    pixels: Counter[int] = Counter()
    for value, count in item.pixels.items():
        pixels[table[min(value * top, len(table) - 1)]] += count
    solid = frozenset(table[min(value * top, len(table) - 1)] for value in item.solid)
    return _Counted(item.path, 'RGB', pixels, solid)


def _total(counted: Sequence[_Counted]) -> tuple[Counter[int], set[int]]:
    pixels: Counter[int] = Counter()
    for item in counted:
        pixels.update(item.pixels)
    return pixels, {value for item in counted for value in item.solid}


def _is_lossy(counted: Sequence[_Counted]) -> bool:
    return sum(item.path.lower().endswith(('.jpg', '.jpeg')) for item in counted) * 2 > len(counted)


def _cluster(pixels: Mapping[int, int], channels: int) -> list[int]:
    """Values from which all that are frequent lie no farther than a JPEG's noise, the most frequent first."""
    total = sum(pixels.values())
    centres: list[int] = []
    merged: Counter[int] = Counter()
    for value, count in sorted(pixels.items(), key=lambda item: -item[1])[:20000]:
        near = next((centre for centre in centres if _distance(value, centre, channels) <= _NEAR), None)
        if near is None:
            centres.append(near := value)
        merged[near] += count
    return [centre for centre in centres if merged[centre] >= 5 * _RARE * total]


def _distance(one: int, other: int, channels: int) -> int:
    if channels == 1:
        return abs(one - other)
    return max(abs(a - b) for a, b in zip(unpack_colour(one), unpack_colour(other), strict=True))


def _between(value: int, ends: Sequence[int]) -> bool:
    """Whether a colour is a mixture of two others."""
    point = np.array(unpack_colour(value), float)
    points = np.array([unpack_colour(end) for end in ends], float)
    for first in points:
        along, offset = points - first, point - first
        length = (along**2).sum(1)
        share = np.divide(along @ offset, length, out=np.zeros(len(points)), where=length > 0)
        near = np.abs(first + share[:, None] * along - point).max(1) < 6
        if ((share > 0) & (share < 1) & near).any():
            return True
    return False


def _colour_classes(counted: Sequence[_Counted], names: ClassNames, report: Report) -> MaskClasses:
    pixels, solid = _total(counted)
    total, lossy = sum(pixels.values()), _is_lossy(counted)
    if lossy:
        colours = _cluster(pixels, 3)
    else:
        colours = [value for value in pixels if value in solid]
        frequent = [value for value in colours if pixels[value] >= _RARE * total] or colours
        colours += [
            value
            for value, count in pixels.items()
            if value not in solid and count >= _RARE * total and not _between(value, frequent)
        ]
    named = {colour: name for colour, name in names.colours.items() if not is_no_label(name)}
    void = set(names.colours) - set(named)
    if named:
        strange = sorted(
            (value for value in colours if value not in names.colours and not lossy), key=lambda v: -pixels[v]
        )
        if strange:
            files = [item.path for item in counted if set(strange) & set(item.pixels)]
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
    if not 1 <= len(colours) <= _MOST:
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
        report.doubts.append('the masks are JPEG files, whose colours are noisy: pixels take the nearest class')
    order = {value: number for number, value in enumerate(colours)}
    found = {item.path: {order[value] for value in item.pixels if value in order} for item in counted}
    report.notes.append(f'masks: {len(colours)} colours are the classes')
    return MaskClasses(labels, tuple(map(unpack_colour, colours)), _step(step), _background(labels), found)


def _id_classes(counted: Sequence[_Counted], names: ClassNames, report: Report, known: str | None) -> MaskClasses:
    pixels, solid = _total(counted)
    indexed = all(item.palette for item in counted)
    ignored: list[int] = []
    step: dict[str, Any] = {}
    values = sorted(pixels)
    if _is_lossy(counted):
        values = sorted(_cluster(pixels, 1))
        step['tolerance'] = 64
        report.doubts.append('the masks are JPEG files, whose values are noisy: pixels take the nearest class')
    elif not indexed and max(values) < 256:
        blurred = [v for v in values if v not in solid and pixels[v] < 5 * _RARE * sum(pixels.values())]
        blurred = [v for v in blurred if solid and min(solid) < v < max(solid)]
        if len(blurred) >= max(3, len(solid)):
            step['tolerance'], share = 0, sum(pixels[v] for v in blurred) / sum(pixels.values())
            values = [v for v in values if v not in set(blurred)]
            ignored += blurred
            report.doubts.append(
                f'{len(blurred)} grey values of blurred edges, {share:.2%} of all pixels, are ignored (255)'
            )
    bad: list[str] = []
    by_id, source = names.by_id, names.source
    if known:
        by_id, source = KNOWN[known].ids(), f'the dataset {known}'
        ignored += [value for value in values if value not in by_id and value in KNOWN[known].ignored]
    voids = [number for number, name in by_id.items() if is_no_label(name)]
    ignored += [value for value in voids if value not in ignored]
    by_id = {number: name for number, name in by_id.items() if number not in voids}
    left = [value for value in values if value not in ignored]
    others = [value for value in left if value != 255]
    binary = len(left) == 2 and left[0] == 0
    if 255 in left and 255 not in by_id and not binary and (others or [0])[-1] < max(2 * len(others), len(by_id), 3):
        ignored.append(255)
        left = others
        report.notes.append('value 255 of the masks is ignored')
    if binary and len(by_id) in (0, 1, 2):
        labels = [*by_id.values()]
        labels = ['background', 'foreground'][: 2 - len(labels)] + labels if len(labels) < 2 else labels
        if left[1] == 255:
            report.doubts.append('value 255 of the masks is taken as the foreground, not as "no label"')
    elif by_id:
        beyond = set(left) - set(by_id)
        if 0 in beyond or (beyond and set(left) - {0} <= {number + 1 for number in by_id}):
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
        strange = _stray(counted, left)
        bad = [item.path for item in counted if strange & set(item.pixels)]
        if bad:
            report.leave_out(
                bad,
                len(counted),
                f'masks with values that no other mask has ({shown(sorted(strange))})',
                'correct them, or name all classes in a file classes.txt, one a line from 0 on',
            )
        left = [value for value in left if value not in strange]
        if not 1 <= len(left) <= _MOST:
            raise _no_label_map(counted, f'{len(left)} different values')
        labels = [f'class_{value}' for value in left]
        report.doubts.append(
            f'the values {shown(left, 12)} of the masks have no names: write a file classes.txt, one name a line'
        )
        if left[0] == 0:
            report.doubts.append('value 0 of the masks is taken as a class, as background often is')
    if left != list(range(len(left))) or step.get('tolerance') or ignored not in ([], [255]):
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


def _stray(counted: Sequence[_Counted], left: Sequence[int]) -> set[int]:
    """Values of single masks beyond a row of values that many have: mistakes rather than classes."""
    files = Counter(value for item in counted for value in item.pixels)
    common = [value for value in left if files[value] > max(1, 0.01 * len(counted))]
    if len(counted) < 10 or not common or common != list(range(common[0], common[0] + len(common))):
        return set()
    return {value for value in left if value > common[-1] + 1 and value not in common}


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


def _no_label_map(counted: Sequence[_Counted], found: str) -> UserError:
    files = [item.path for item in counted]
    return UserError(
        f'the masks ({shown(files)}) hold {found}, which is no map of at most {_MOST} classes: expected one colour or '
        'value for each class, saved as PNG; masks that number objects need a COCO JSON instead'
    )
