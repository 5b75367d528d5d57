"""Read archives and lists that somebody else made, in bounded memory and time whatever they hold."""

import io
import json
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO

__all__ = ['MAX_UNPACKED', 'BoundedFile', 'json_entries', 'open_member']

MAX_UNPACKED = 2**31  # bytes that COCO's list may have: two million objects with masks need about half of them
MAX_LIST = 2**24  # bytes of an archive's list of members, which zipfile reads at once: enough for 150,000 label maps
WINDOW = 2**20  # characters of a JSON list that are in memory at a time: the most that an entry may have
_BLANK = re.compile(r'[ \t\n\r]*')
_OPENING = re.compile(r'[ \t\n\r]*\[([ \t\n\r]*\])?')
_SIGN = re.compile(r'[ \t\n\r]*([,\]])')


class BoundedFile(io.FileIO):
    """A file of an archive, of which no more is read at once than a sound list of members has."""

    def read(self, size: int | None = -1, /) -> Any:
        """Read so many bytes."""
        if size is not None and size > MAX_LIST:
            raise zipfile.BadZipFile(f'its list of members has {size} bytes, expected at most {MAX_LIST}')
        return super().read(size)


@contextmanager
def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open a member that is read to its end in the block; ``BadZipFile`` where it is not what the archive says."""
    if info.flag_bits & 0x1:
        raise zipfile.BadZipFile('it is encrypted: pack it without a password')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise zipfile.BadZipFile('it is compressed by a method that not every server knows: pack it with deflate')
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise zipfile.BadZipFile('it is a link or a device: pack a regular file')
    with archive.open(info) as stream:
        yield stream
        if stream.tell() != info.file_size:
            raise zipfile.BadZipFile(f'it has {stream.tell()} bytes, the archive says {info.file_size}')


def json_entries(text: TextIO) -> Iterator[Any]:
    """The entries of a JSON list one after another; ``ValueError`` or ``RecursionError`` where it cannot be read."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    window, before, count = text.read(WINDOW), 0, 0
    opening = _OPENING.match(window)
    if opening is None:
        raise ValueError(f'it starts with {window[:9]!r}, expected a list, in UTF-8 without a byte order mark')
    position, more = opening.end(), opening[1] is None
    while more:
        try:
            entry, end = decoder.raw_decode(window, _BLANK.match(window, position).end())  # type: ignore[union-attr]
            sign = _SIGN.match(window, end)
            if sign is None:
                raise json.JSONDecodeError("Expecting ',' or ']'", window, end)
        except json.JSONDecodeError as error:
            following = text.read(WINDOW - len(window) + position)
            if not following:
                limit = f', an entry may have {WINDOW} characters' if len(window) == WINDOW else ''
                raise ValueError(f'{error.msg} at character {before + error.pos}{limit}') from error
            before += position
            window, position = window[position:] + following, 0
        except ValueError as error:
            raise ValueError(f'entry {count}: {error}') from error
        else:
            yield entry
            position, more, count = sign.end(), sign[1] == ',', count + 1
    rest = window[position:] or text.read(WINDOW)
    while rest:
        if _BLANK.fullmatch(rest) is None:
            raise ValueError('there is more text behind the list')
        rest = text.read(WINDOW)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f'an object has the key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} twice')
    return found
