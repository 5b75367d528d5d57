"""Which mask belongs to which photograph."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from mmvit_ext.errors.user_error import UserError

from .data import Report, shown
from .index import Index, sample_of
from .values import looks_like_mask
from .words import Place, Places, split_of

__all__ = ['Pairs', 'pair_masks']

Pairs = dict[str, str]
"""The mask of each photograph."""

_PREFERRED = ('(label)?trainids', 'labelids?', 'manual[0-9]?|gts?|truths?|groundtruths?')
_AVOIDED = 'instance(s|ids)?|segmentationobject|colou?rs?|trimaps?|labell?ed|outputs?'
_ANNOTATOR = re.compile('[0-9]+(st|nd|rd|th)(ho)?|manual[0-9]')
_LOOKED_AT = 4


def pair_masks(index: Index, places: Places, report: Report) -> tuple[Pairs, list[str], list[str]]:
    """Find the mask of each photograph.

    Returns:
        The pairs, the photographs without mask, and the masks without photograph.

    Raises:
        UserError: A photograph has several masks that say different things.
    """
    read = [places.read(path) for path in index.pictures]
    photos, masks = [place for place in read if not place.is_mask], [place for place in read if place.is_mask]
    if not masks or not photos:
        photos, masks = _by_content(index, read)
    if not masks or not photos:
        return {}, [place.path for place in photos], []
    candidates = _match(photos, masks)
    chosen = _choose_kind(candidates, masks, report)
    used = {mask.path for found in candidates.values() for mask in found}
    lone = [mask.path for mask in masks if mask.path not in used]
    return chosen, [photo.path for photo in photos if photo.path not in chosen], lone


def _by_content(index: Index, read: Sequence[Place]) -> tuple[list[Place], list[Place]]:
    """Photographs and masks whose names do not tell them apart: groups of files that look like one or the other."""
    groups: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for place in read:
        pure = PurePosixPath(place.path)
        groups[(str(pure.parent), pure.suffix.lower())].append(place)
    stems = Counter(stem for group in groups.values() for stem in {place.key[-1] for place in group})
    if len(groups) < 2 or sum(count > 1 for count in stems.values()) * 2 < max(map(len, groups.values())):
        stripped = Counter(stem for group in groups.values() for stem in set(_without_affixes(group)))
        if len(groups) < 2 or len(groups) > 64 or sum(count > 1 for count in stripped.values()) < 2:
            return list(read), []
    photos: list[Place] = []
    masks: list[Place] = []
    for group in groups.values():
        looks = [looks_like_mask(index.root / place.path) for place in sample_of(group, _LOOKED_AT, 0)]
        (masks if sum(looks) * 2 > len(looks) else photos).extend(group)
    return photos, masks


def _match(photos: Sequence[Place], masks: Sequence[Place]) -> dict[str, list[Place]]:
    """The masks that may belong to each photograph, by ever weaker ties until most have one."""
    found: dict[str, list[Place]] = {}
    groups = _affixes(photos) | _affixes(masks)
    ties = (
        lambda place: (place.split, *place.key),
        lambda place: place.key,
        lambda place: (place.split, place.key[-1]),
        lambda place: place.key[-1],
        lambda place: (place.split, groups[place.path]),
        lambda place: groups[place.path],
    )
    for tie in ties:
        table: dict[object, list[Place]] = defaultdict(list)
        for mask in masks:
            table[tie(mask)].append(mask)
        owners = Counter(tie(photo) for photo in photos)
        for photo in photos:
            if photo.path not in found and owners[tie(photo)] == 1 and table.get(tie(photo)):
                found[photo.path] = table[tie(photo)]
        if len(found) * 2 > len(photos) or len(found) * 2 > len(masks):
            break
    return found


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
    low, high = min(stems), max(stems)
    start = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    start = len(low[:start].rstrip('0123456789'))
    ends = [stem[start:][::-1] for stem in stems]
    low, high = min(ends), max(ends)
    end = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    end = len(low[:end].rstrip('0123456789'))
    return [stem[start : len(stem) - end] for stem in stems]


def _choose_kind(candidates: Mapping[str, Sequence[Place]], masks: Sequence[Place], report: Report) -> Pairs:
    """One mask for each photograph, of the kind that is best for training where there are several."""
    kinds: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for photo, found in candidates.items():
        for mask in found:
            words = [word for word in mask.words if not split_of(word)]
            kind = (*words, PurePosixPath(mask.path).suffix.lower())
            kinds[kind][photo].append(mask.path)
    kinds = {kind: photos for kind, photos in kinds.items() if len(photos) * 2 > len(candidates)} or kinds
    best = min(_rank(kind) for kind in kinds) if kinds else 0
    ranked = sorted(kind for kind in kinds if _rank(kind) == best)
    several = [(photo, paths) for kind in ranked for photo, paths in kinds[kind].items() if len(paths) > 1]
    if several:
        photo, paths = several[0]
        raise UserError(
            f'{len(several)} images have several masks each, for example {photo}: {shown(paths)}; one file for each '
            'object or class cannot be trained on as it is: merge them into one mask of class indices for each image, '
            'or write a COCO JSON'
        )
    pairs: Pairs = {}
    for kind in ranked:
        pairs |= {photo: paths[0] for photo, paths in kinds[kind].items() if photo not in pairs}
    both = sum(photo in kinds[ranked[0]] for kind in ranked[1:] for photo in kinds[kind]) if ranked else 0
    if both and not all(any(_ANNOTATOR.fullmatch(word) for word in kind) for kind in ranked):
        examples = [
            kinds[kind][photo][0] for photo in list(kinds[ranked[0]])[:1] for kind in ranked if photo in kinds[kind]
        ]
        raise UserError(
            f'images have several kinds of masks, for example {shown(examples)}: keep the one to train on in a folder '
            'called masks and move the others out of the folder'
        )
    if both or len(ranked) < len(kinds):
        first = next(iter(kinds[ranked[0]].values()))[0]
        others = [next(iter(photos.values()))[0] for kind, photos in kinds.items() if kind != ranked[0]]
        report.doubts.append(
            f'of several masks for an image those like {first} are taken and not those like {shown(others)}: move '
            'the former away to train on the latter'
        )
    return pairs


def _rank(kind: Sequence[str]) -> int:
    words = kind[:-1]
    for rank, form in enumerate(_PREFERRED):
        if any(re.fullmatch(form, word) for word in words):
            return (
                rank if rank < len(_PREFERRED) - 1 or not set(words) & {'instanceids', 'color'} else len(_PREFERRED) + 1
            )
    return len(_PREFERRED) + any(re.fullmatch(_AVOIDED, word) for word in words)
