"""Which mask belongs to which photograph."""

import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median

from mmvit_ext.errors.user_error import UserError

from .data import Report, shown
from .index import Index, sample_of
from .labels import Labelled
from .pixels import solid_share
from .words import Place, Places, split_of

__all__ = ['pair_masks']

_PREFERRED = ('(label)?trainids', 'labelids?', 'manual[0-9]?|gts?|truths?|groundtruths?')
_AVOIDED = 'rgb|panoptics?|instance(s|ids)?|segmentationobject(raw)?|colou?rs?|colou?rmaps?|trimaps?|outputs?'
_NUMBERED = 'panoptics?|instance(s|ids)?|segmentationobject(raw)?'
"""Words of masks whose values number objects."""

_LOOKED_AT, _GROUPS = 5, 8
"""Files of a group that are looked at, and groups without common names among which masks are looked for."""

_MASK, _PHOTO = 0.8, 0.3
"""Shares of pixels in areas of one value: more in what is a mask, and less in what is none though it is called one."""


def pair_masks(index: Index, places: Places, report: Report, *, objects: bool = False) -> Labelled | None:
    """Find the mask, or masks, of each photograph; with ``objects`` those that number objects come first."""
    read = [places.read(path) for path in index.pictures]
    photos, masks = [place for place in read if not place.is_mask], [place for place in read if place.is_mask]
    if not masks or not photos:
        photos, masks = _by_content(index, read)
    elif _solid(index, masks) < _PHOTO:  # classes may be called "mask" and "no mask"
        return None
    candidates = _match(photos, masks) if masks and photos else {}
    chosen = _choose_kind(candidates, report, objects)
    if not chosen:
        return None
    several = chosen if any(len(paths) > 1 for paths in chosen.values()) else {}
    pairs = {photo: paths[0] for photo, paths in chosen.items()}
    used = {mask.path for found in candidates.values() for mask in found}
    unpaired = [photo.path for photo in photos if photo.path not in pairs]
    lone = [mask.path for mask in masks if mask.path not in used]
    return Labelled('', masks=pairs, several=several, unpaired=unpaired, lone=lone)


def _by_content(index: Index, read: Sequence[Place]) -> tuple[list[Place], list[Place]]:
    """Photographs and masks whose names do not tell them apart: groups of files that look like one or the other."""
    groups: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for place in read:
        pure = PurePosixPath(place.path)
        groups[(str(pure.parent), pure.suffix.lower())].append(place)
    stems = Counter(stem for group in groups.values() for stem in {place.key[-1] for place in group})
    shared = sum(count > 1 for count in stems.values()) * 2 >= max(map(len, groups.values()))
    if len(groups) < 2 or (len(groups) > _GROUPS and not shared):
        return list(read), []
    photos: list[Place] = []
    masks: list[Place] = []
    for group in groups.values():
        (masks if _solid(index, group) > _MASK else photos).extend(group)
    return photos, masks


def _solid(index: Index, group: Sequence[Place]) -> float:
    """The median share of pixels in areas of one value."""
    return median(solid_share(index.root / place.path) for place in sample_of(group, _LOOKED_AT, 0))


def _match(photos: Sequence[Place], masks: Sequence[Place]) -> dict[str, list[Place]]:
    """The masks that may belong to each photograph, by ever weaker ties until most have one."""
    found: dict[str, list[Place]] = {}
    short = _affixes(photos) | _affixes(masks)
    ties: Sequence[Callable[[Place], object]] = (
        *(lambda place, number=number: place.ties[number] for number in range(4)),  # type: ignore[misc]
        lambda place: (place.split, *place.key[:-2], place.key[-1]),  # one folder less, the innermost or the outermost
        lambda place: (place.split, *place.key[1:]),
        lambda place: (place.split, short[place.path]),
        lambda place: short[place.path],
        lambda place: place.key[:-1],  # a folder with one photograph and a mask for each object
    )
    for tie in ties:
        table: dict[object, list[Place]] = defaultdict(list)
        for mask in masks:
            table[tie(mask)].append(mask)
        owners = Counter(tie(photo) for photo in photos)
        for photo in photos:
            if photo.path not in found and owners[tie(photo)] == 1 and tie(photo) and table.get(tie(photo)):
                found[photo.path] = table[tie(photo)]
        if len(found) * 2 > min(len(photos), len(masks)):
            return found
    names = sorted(masks, key=lambda mask: mask.key[-1])
    for photo in photos:  # "a.jpg" with "a_road.png" and "a_car.png"
        begin = f'{photo.key[-1]}_'
        first, last = (bisect(names, end, key=lambda mask: mask.key[-1]) for end in (begin, begin + chr(0x10FFFF)))
        longer = names[first:last]
        found.setdefault(photo.path, [mask for mask in longer if mask.split == photo.split] or longer)
    return {photo: masks for photo, masks in found.items() if masks}


def _affixes(places: Iterable[Place]) -> dict[str, str]:
    """The names without what is common to all of their folder and kind."""
    groups = defaultdict(list)
    for place in places:
        groups[place.split, place.words, PurePosixPath(place.path).suffix].append(place)
    return {
        place.path: name
        for group in groups.values()
        for place, name in zip(group, _without_affixes(group), strict=True)
    }


def _without_affixes(group: Sequence[Place]) -> list[str]:
    """Names without their common start and end, which are cut back so that numbers stay whole."""
    stems = [PurePosixPath(place.path).stem for place in group]
    if len(stems) < 2:
        return stems
    start = _shared(stems)
    end = _shared([stem[start:][::-1] for stem in stems])
    return [stem[start : len(stem) - end] for stem in stems]


def _shared(names: Sequence[str]) -> int:
    """How many characters all names begin with, up to the last whole number."""
    low, high = min(names), max(names)
    start = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return len(low[:start].rstrip('0123456789'))


def _choose_kind(candidates: Mapping[str, Sequence[Place]], report: Report, objects: bool) -> dict[str, list[str]]:
    """The masks of each photograph of the kind that is best for training where there are several kinds."""
    kinds: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for photo, found in candidates.items():
        for mask in found:
            words = [word for word in mask.words if not split_of(word)]
            kind = (*words, PurePosixPath(mask.path).suffix.lower())
            kinds[kind][photo].append(mask.path)
    chosen: dict[str, list[str]] = {}
    other = []
    for kind in sorted(kinds, key=lambda kind: (_rank(kind, objects), -len(kinds[kind]), kind)):
        if chosen.keys() & kinds[kind].keys():
            other.append(next(iter(kinds[kind].values()))[0])  # a second mask of the same photographs
            continue
        if not objects and _has(kind, _NUMBERED):
            raise UserError(
                f'the masks of {len(kinds[kind])} images, like {next(iter(kinds[kind].values()))[0]}, are called as '
                'those that number objects: pass --task inst to train on objects, or rename files and folders to '
                'masks if their values are classes'
            )
        chosen |= kinds[kind]
    if other:
        report.doubts.append(
            f'images have several masks: those like {next(iter(chosen.values()))[0]} are used and not those like '
            f'{shown(other)}; move the former out of the folder to train on the latter'
        )
    return chosen


def _has(kind: Sequence[str], form: str) -> bool:
    return any(re.fullmatch(form, word) for word in kind)


def _rank(kind: Sequence[str], objects: bool) -> int:
    """The smaller, the better a kind of masks is to train on."""
    if objects and _has(kind, _NUMBERED) and not _has(kind, 'panoptics?'):
        return -1
    if _has(kind, _AVOIDED):
        return len(_PREFERRED) + 1
    return next((rank for rank, form in enumerate(_PREFERRED) if _has(kind, form)), len(_PREFERRED))
