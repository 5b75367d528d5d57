"""The files of a folder, listed once, and what the first bytes of its pictures say."""

import codecs
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image

from ..transforms import is_cut_off
from .words import split_of

__all__ = ['Header', 'Index', 'in_threads', 'sample_of']

PICTURES = {'.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'}
TEXTS = {'.csv', '.json', '.lst', '.names', '.tsv', '.txt', '.xml', '.yaml', '.yml'}
_JUNK = {'__macosx', 'thumbs.db', 'desktop.ini'}
_ORIENTATION = 0x0112
_WIDE = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')


@dataclass(frozen=True)
class Header:
    """What is known of a picture without its pixels."""

    size: tuple[int, int]  # height and width, turned as its EXIF orientation says
    mode: str = 'RGB'  # Pillow's
    problem: str = ''  # why it cannot be used

    @property
    def bits(self) -> int:
        """Of each channel."""
        return 16 if self.mode in _WIDE else 8


def in_threads(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call a function on each item; Pillow decodes outside of Python's lock."""
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        return list(pool.map(call, items))


class Index:
    """The pictures and texts below a folder, their paths relative to it; a folder without pictures is refused."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f'the folder {root} does not exist or is no folder: pass the one that holds your images')
        self.root = root
        self.ignored: Counter[str] = Counter()
        found = sorted(self._walk())
        self.pictures = [path for path in found if PurePosixPath(path).suffix.lower() in PICTURES]
        self.texts = [path for path in found if PurePosixPath(path).suffix.lower() in TEXTS]
        if not self.pictures:
            raise UserError(
                f'the folder {root} holds no image ({", ".join(sorted(PICTURES))}), but '
                f'{self.unread() or "nothing else"}: pass the one that holds your images, unpacked and in such a format'
            )
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.pictures:
            self._by_name[PurePosixPath(path).name].append(path)
            self._by_name[PurePosixPath(path).stem].append(path)
        self._folders = {name for path in self.pictures for name in PurePosixPath(path).parts[:-1]}
        self._headers: dict[str, Header] = {}

    def _walk(self) -> Iterable[str]:
        seen = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(real)
            kept = [name for name in folders if not name.startswith('.') and name.lower() not in _JUNK]
            self.ignored['hidden'] += len(folders) - len(kept)
            folders[:] = kept
            for name in names:
                path, suffix = os.path.join(folder, name), os.path.splitext(name)[1].lower()
                if name.startswith('.') or name.lower() in _JUNK:
                    self.ignored['hidden'] += 1
                elif suffix in PICTURES and os.path.isfile(path) and not os.path.getsize(path):
                    self.ignored['empty'] += 1
                elif suffix in PICTURES | TEXTS and os.path.isfile(path):
                    yield Path(path).relative_to(self.root).as_posix()
                else:
                    self.ignored[suffix or 'without suffix'] += 1

    def texts_of(self, *suffixes: str) -> list[str]:
        """The texts with one of the suffixes, which are written in small letters."""
        return [path for path in self.texts if path.lower().endswith(suffixes)]

    def unread(self) -> str:
        """The files that are neither pictures nor texts, by kind."""
        return ', '.join(f'{count} {what}' for what, count in self.ignored.most_common(6) if count)

    def read(self, path: str) -> str:
        """The text of a file."""
        try:
            content = (self.root / path).read_bytes()
        except OSError as error:
            raise UserError(f'{self.root / path} cannot be read: {error.strerror}; check its permissions') from error
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows' shell writes
        text = content.decode('utf-16' if wide else 'utf-8-sig', errors='replace')
        return text.replace('\r\n', '\n').replace('\r', '\n')

    def is_picture(self, name: str) -> bool:
        """Whether a picture has a name, with or without suffix, in whatever folder."""
        pure = PurePosixPath(name.replace('\\', '/'))
        return pure.name in self._by_name or pure.stem in self._by_name

    def names_file(self, name: str) -> bool:
        """Whether a text looks like the path of a picture, and not like a number or a word that one may be called."""
        return bool({'/', '\\'} & set(name)) or PurePosixPath(name).suffix.lower() in PICTURES

    def find(self, name: str, near: str = '', among: set[str] | None = None) -> str | None:
        """The picture that a name in a list means: with or without suffix, and with more or fewer folders before it.

        One in another folder than the name says is none, if there is a folder of that name. Of several, the one that
        shares most folders with the name, then most words and splits with the path ``near``.
        """
        parts = [part for part in name.replace('\\', '/').split('/') if part not in ('', '.', '..')]
        if not parts:
            return None
        found = self._by_name.get(parts[-1]) or self._by_name.get(PurePosixPath(parts[-1]).stem) or []
        found = [path for path in found if among is None or path in among]
        if len(found) < 2:
            elsewhere = found and len(parts) > 1 and parts[-2] in self._folders - {*PurePosixPath(found[0]).parts}
            return None if elsewhere or not found else found[0]
        said = _words(near)
        ranked = [(_common(parts[-2::-1], path), len(said & _words(path)), path) for path in found]
        ranked.sort(key=lambda item: item[:2], reverse=True)
        return None if ranked[0][:2] == ranked[1][:2] else ranked[0][2]

    def headers(self, paths: Sequence[str]) -> dict[str, Header]:
        """The headers of pictures; each is read once."""
        missing = [path for path in dict.fromkeys(paths) if path not in self._headers]
        self._headers.update(zip(missing, in_threads(self._header, missing), strict=True))
        return {path: self._headers[path] for path in paths}

    def _header(self, path: str) -> Header:
        try:
            with open_image(self.root / path) as image:
                (width, height), mode, form = image.size, image.mode, image.format
                # Pillow would read all pixels of a PNG file to look for metadata behind them.
                turned = (form != 'PNG' or 'exif' in image.info) and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            if form == 'PNG':
                with open_image(self.root / path) as image:
                    image.verify()  # checksums
            if is_cut_off((self.root / path).read_bytes()):
                return Header((0, 0), problem='is cut off')
        except Exception as error:  # Pillow's own depend on the format
            return Header((0, 0), problem=_tiff_form(self.root / path) or f'cannot be decoded ({type(error).__name__})')
        return Header((width, height) if turned else (height, width), mode)


def _tiff_form(path: Path) -> str:
    """Channels and bits of a TIFF that Pillow does not open, empty for other files."""
    try:
        with path.open('rb') as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        return f'{tags.get(277, 1)} channels of {max(tags[258])} bits'
    except Exception:  # it is another kind of file, or broken
        return ''


def _common(parts: Sequence[str], path: str) -> int:
    """How many folders above the file have the same names, from the innermost."""
    folders = PurePosixPath(path).parts[:-1][::-1]
    return next(
        (n for n, (a, b) in enumerate(zip(parts, folders, strict=False)) if a != b), min(len(parts), len(folders))
    )


@lru_cache(maxsize=1024)
def _folder_words(folder: str) -> frozenset[str]:
    parts = [part for part in re.split(r'[\W_]+', folder.lower()) if part]
    return frozenset(parts) | {split for part in parts if (split := split_of(part))}


def _words(path: str) -> frozenset[str]:
    """The words of a file's folders and, of a text, of its name; and the splits that they say."""
    pure = PurePosixPath(path)
    return _folder_words(str(pure.with_suffix('') if pure.suffix.lower() in TEXTS else pure.parent))


def sample_of(items: Sequence[Any], count: int, seed: int) -> list[Any]:
    """At most ``count`` items, drawn by a fixed seed, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), count))]
