"""What the names of files and folders say: photograph or mask, training or validation, and which belong together."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

__all__ = ['Place', 'Places', 'is_known', 'split_of']

_SPLITS = {
    'train': 'train(?:ing|val)?|trn|tr',
    'val': 'val(?:id(?:ation|ierung)?)?|dev(?:el(?:opment)?)?|va',
    'test': 'test(?:ing)?|tst|ts|te',
}
_IMAGES = (
    'images?|imgs?|photos?|photographs?|pictures?|pics?|rgb|jpegimages|leftimg8bit|raws?|originals?|orig|inputs?|'
    'sources?|src|frames?|sat'
)
_MASKS = (
    'masks?|labell?ed|labels?|labelmaps?|lbls?|annotations?|annotated|annots?|anno|ann|gts?|gtfine|gtcoarse|truths?|'
    'groundtruths?|segmentations?|segmentation(?:class|object)(?:raw|aug)?|segm?|segs|semantics?|targets?|mattes?|manual[0-9]?|'
    'label(?:train)?ids|trainids|instance(?:s|ids)?|panoptics?|colou?rs?|colou?rmaps?|trimaps?|outputs?'
)
_NEUTRAL = 'ground|class|all|pixels?|pixelwise|files?|[0-9]+(?:st|nd|rd|th)(?:ho)?|png|jpe?g'

_SPLIT = '|'.join(_SPLITS.values())
_WORDS = re.compile(rf'(?:(?:{_SPLIT}|{_IMAGES}|{_MASKS}|{_NEUTRAL})[^a-z0-9]*[0-9]{{0,4}}[^a-z0-9]*)+')
_ALONE = re.compile(f'{_SPLIT}|{_IMAGES}|{_MASKS}|{_NEUTRAL}')
_MASK = re.compile(_MASKS)
_FUSED = re.compile(r'([a-z]+)([0-9]+)|([0-9]+)([a-z]+)')


def split_of(name: str) -> str | None:
    """The split that a name such as ``train2017``, ``trainannot`` or ``images_val`` says."""
    return _parse(name)[1]


def split_of_file(path: str) -> str | None:
    """The split that the words of a file's name such as ``instances_train2017`` or its folders say."""
    parts = [*PurePosixPath(path).parts[:-1], *re.split('[^A-Za-z0-9]+', PurePosixPath(path).stem)]
    return next((split for part in parts[::-1] if (split := split_of(part))), None)


def is_known(word: str) -> bool:
    """Whether a word says what kind of file something is."""
    return bool(_ALONE.fullmatch(word.lower()))


@lru_cache(maxsize=4096)
def _parse(name: str) -> tuple[tuple[str, ...], str | None]:
    """The words of a name that consists of known words only, and the split among them."""
    name = re.sub(r'^([a-z]|[0-9]+)[.)][^a-z0-9]*', '', name.lower())  # "1. Original Images"
    name = re.sub('[^a-z0-9]*sets?$', '', name)  # "Training Set"
    if not _WORDS.fullmatch(name):
        return (), None
    words = tuple(word for part in re.split('[^a-z0-9]+', name) for word in _cut(part))
    return words, next((split for word in words for split, form in _SPLITS.items() if re.fullmatch(form, word)), None)


def _cut(text: str) -> list[str]:
    """The known words that a text without separators consists of, the longest first."""
    if not text or text.isdigit():
        return []
    for end in range(len(text), 0, -1):
        if _ALONE.fullmatch(text[:end]) and (_WORDS.fullmatch(text[end:]) or not text[end:].strip('0123456789')):
            return [text[:end], *_cut(text[end:].lstrip('0123456789'))]
    return []


@dataclass(frozen=True)
class Place:
    """What the path of a file says."""

    path: str
    key: tuple[
        str, ...
    ]  # what is left of folders and name without the known words: the same for all that belong together
    split: str | None
    words: tuple[str, ...]  # the known words
    is_mask: bool

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """What files that belong together have in common, the strongest first."""
        return (
            ('split', self.split or '', *self.key),
            ('key', *self.key),
            ('name', self.split or '', self.key[-1]),
            (self.key[-1],),
        )


@lru_cache(maxsize=4096)
def _without_split(name: str) -> list[tuple[str, str]]:
    """A name without each of its words that says a split, and that split."""
    parts = re.split('([^A-Za-z0-9]+)', name)
    said = [(place, split) for place, part in enumerate(parts) if (split := split_of(part))]
    return [(''.join(parts[:place] + parts[place + 1 :]), split) for place, split in said]


class Places:
    """Reads paths of one folder: whether a word is meant, such as ``test``, also depends on what stands beside it."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._children: dict[str, set[str]] = defaultdict(set)
        self._read: dict[str, Place] = {}
        for folder in {parent for path in paths for parent in PurePosixPath(path).parents}:
            if folder.name:
                self._children[str(folder.parent)].add(folder.name)

    def is_split(self, parent: str, name: str) -> bool:
        """Whether a folder called as a split is one."""
        # A class called "train" stands among classes that are no splits.
        beside = self._children[parent] - {name}
        return sum(not _parse(other)[0] for other in beside) <= sum(split_of(other) is not None for other in beside)

    def _split_within(self, parent: str, name: str) -> tuple[str | None, str]:
        """The split in a name such as ``city_train`` beside ``city_val``, and the rest of the name."""
        for rest, split in _without_split(name):
            if any(
                (rest, other) in _without_split(beside)
                for beside in self._children[parent]
                for other in _SPLITS
                if other != split
            ):
                return split, rest
        return None, name

    def read(self, path: str) -> Place:
        """What a path says; words at both ends of the name count as those of the folders do."""
        if path not in self._read:
            self._read[path] = self._parse(path)
        return self._read[path]

    def _parse(self, path: str) -> Place:
        pure = PurePosixPath(path)
        key: list[str] = []
        words: list[str] = []
        split, is_mask = None, False
        for depth, name in enumerate(pure.parts[:-1]):
            found, said = _parse(name)
            if said and not self.is_split(str(PurePosixPath(*pure.parts[:depth])), name):
                found, said = (), None
            if not found:
                said, name = self._split_within(str(PurePosixPath(*pure.parts[:depth])), name)
            split = said or split
            words += found
            if not found:
                key.append(name.lower())
            elif not all(re.fullmatch(_SPLIT + '|' + _NEUTRAL, word) for word in found):
                is_mask = any(_MASK.fullmatch(word) for word in found)
        stem, stripped = _strip(pure.stem.lower())
        is_mask = is_mask or any(_MASK.fullmatch(word) for word in stripped)
        in_name = next((split_of(word) for word in stripped if split_of(word)), None)
        return Place(path, (*key, stem), split or in_name, (*words, *stripped), is_mask)


def _strip(stem: str) -> tuple[str, list[str]]:
    tokens = [token for token in re.split(r'[\W_]+', stem) if token]
    stripped = []
    for end in (-1, 0):
        while tokens:
            fused = _FUSED.fullmatch(tokens[end])
            if _ALONE.fullmatch(tokens[end]):
                stripped.append(tokens.pop(end))
            elif fused and _ALONE.fullmatch(fused[1] or fused[4]):
                stripped.append(fused[1] or fused[4])
                tokens[end] = fused[2] or fused[3]
                break
            else:
                break
    return '_'.join(tokens), stripped
