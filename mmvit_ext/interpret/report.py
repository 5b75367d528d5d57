"""What an explanation of an image consists of, and the page that shows the explanations of a run.

A method that explains has a function ``explain_image(predictor, path, folder, name, *, options) -> Explanation``, which
writes pictures and arrays as ``folder/NAME...`` and tells what they show. :func:`write_page` puts the explanations of
all images into one HTML file. It holds everything it shows: pictures are embedded, there is no script, and its content
policy keeps a browser from loading anything.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.version import __version__

__all__ = ['Entry', 'Explanation', 'encode_thumbnail', 'plain', 'write_facts', 'write_page']

THUMBNAIL = 256
"""Longer edge of the picture of an input in pixels."""

EMBEDDED_EDGE = 2000
"""Longer edge in pixels up to which a picture is embedded as it is; larger ones are made smaller, the file stays."""

EMBEDDED_BYTES = 600_000
"""Size up to which a picture is embedded without loss, so that a page of many images can still be opened."""

LONGEST = 12
"""Entries of a list of numbers that the page shows; the JSON file has all of them."""

WIDE = 1.6
"""Width over height from which a picture is scrolled sideways on a narrow screen, where it could not be read."""


@dataclass(frozen=True)
class Explanation:
    """What a method found out about an image, or about all images of a run.

    Args:
        pictures: Caption and file of each picture, in the order in which they are shown.
        facts: Numbers and names by what they are: what JSON can hold, and numpy's numbers and arrays.
        data: Further files that were written, such as arrays.
    """

    pictures: Sequence[tuple[str, Path]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Path] = ()


@dataclass(frozen=True)
class Entry:
    """An image on the page.

    Args:
        name: Of its results, see :func:`mmvit_ext.inference.images.output_names`.
        source: The image file.
        thumbnail: Small picture of it, see :func:`encode_thumbnail`.
        explanation: What was found.
    """

    name: str
    source: Path
    thumbnail: str
    explanation: Explanation


# Facts


def plain(value: Any) -> Any:
    """A value as what JSON can hold.

    Args:
        value: Mappings, sequences, numbers, texts, paths, numpy's and PyTorch's numbers and arrays.

    Returns:
        The same in dicts, lists, numbers and texts; what is no finite number is ``None``, as JSON has no word for it.

    Raises:
        TypeError: The value is of another kind.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, 'tolist'):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f'facts must be numbers, texts, lists and mappings, got {type(value).__name__}: convert it first')


def write_facts(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Write facts as JSON.

    Args:
        facts: See :class:`Explanation`.
        path: The file.

    Returns:
        The file.

    Raises:
        UserError: It cannot be written.
    """
    with atomic_path(path) as file:
        file.write_text(json.dumps(plain(facts), indent=1, allow_nan=False, ensure_ascii=False) + '\n', 'utf-8')
    return Path(path)


# Pictures


def encode_thumbnail(image: np.ndarray, edge: int = THUMBNAIL) -> str:
    """A small picture to embed.

    Args:
        image: RGB, 8 bit (H, W, 3).
        edge: Longer edge in pixels; smaller images stay as they are.

    Returns:
        A ``data:`` address.
    """
    return _address(_encode('.jpg', _shrunk(np.ascontiguousarray(image[..., ::-1]), edge)), 'jpeg')


def _shrunk(pixels: np.ndarray, edge: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = edge / max(height, width)
    if factor >= 1:
        return pixels
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == '.jpg' else [])[1].tobytes()


def _address(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _embedded(path: Path) -> tuple[str, float]:
    """A picture's ``data:`` address and its width over its height."""
    content = path.read_bytes()
    # OpenCV, as Pillow takes the montages of large pictures for an attack.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UserError(f'{path} is not a picture that can be read: expected PNG or JPEG')
    shape = pixels.shape[1] / pixels.shape[0]
    if max(pixels.shape) <= EMBEDDED_EDGE and len(content) <= EMBEDDED_BYTES:
        return _address(content, 'png' if content.startswith(b'\x89PNG') else 'jpeg'), shape
    pixels = _shrunk(pixels, EMBEDDED_EDGE)
    lossless = _encode('.png', pixels)
    if len(lossless) <= EMBEDDED_BYTES:
        return _address(lossless, 'png'), shape
    return _address(_encode('.jpg', pixels), 'jpeg'), shape


# The page

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --faint: #666; --line: #d5d5d5; --card: #f6f6f4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #161616; --faint: #a0a09c; --line: #3c3c3a; --card: #212120 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.2 } h2 { font-size: 1.2rem; margin: 0 0 .5rem }
h3 { font-size: 1rem; margin: .5rem 0 0 }
a { color: inherit }
section { border-top: 1px solid var(--line); padding: 1.2rem 0 }
nav { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem; margin: 1rem 0 }
nav a { background: var(--card); border-radius: .4rem; padding: .4rem; text-decoration: none; font-size: .8rem }
nav img { display: block; width: 100%; height: 6rem; object-fit: contain; margin-bottom: .25rem }
header.image { display: flex; gap: 1rem; align-items: flex-start; margin-bottom: 1rem }
header.image img { max-width: 8rem; max-height: 8rem }
figure { margin: 0 0 1.2rem } figcaption { color: var(--faint); font-size: .9rem; margin-top: .25rem }
.picture { overflow-x: auto } .picture img { display: block; max-width: 100%; height: auto; background: #fff }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; margin: .25rem 0 .75rem }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
td table { margin: 0 } th, td.number { overflow-wrap: normal }
tr.record td { white-space: nowrap } tr.record > td.number { text-align: right }
@media (max-width: 40rem) { .wide img { max-width: none; width: 56rem } }
"""


def write_page(
    path: str | Path,
    title: str,
    entries: Sequence[Entry],
    *,
    run: Mapping[str, Any],
    overall: Explanation | None = None,
    failed: Sequence[tuple[Path, str]] = (),
    legend: str = '',
) -> Path:
    """Write the page of a run.

    Args:
        path: The HTML file. Files of the explanations are linked relative to its folder.
        title: Heading.
        entries: The images.
        run: What was run, by what it is: config, checkpoint, options.
        overall: What was found about all images together.
        failed: Image and reason of those that could not be explained.
        legend: A few sentences on how the pictures are read.

    Returns:
        The file.

    Raises:
        UserError: A picture cannot be read, or the page cannot be written.
    """
    folder = Path(path).parent
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">',
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>',
        f'<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>',
        _value({**run, 'mmvit_ext': __version__}),
    ]
    if legend:
        parts.append(f'<p>{html.escape(legend)}</p>')
    if failed:
        parts.append('<section>\n<h2>Failed</h2>')
        parts.append(_value({str(source): reason for source, reason in failed}))
        parts.append('</section>')
    if len(entries) > 1:
        links = (
            f'<a href="#image-{number}">{_image(entry.thumbnail, entry.name)}{html.escape(entry.name)}</a>'
            for number, entry in enumerate(entries, 1)
        )
        parts.append(f'<nav aria-label="images">\n{chr(10).join(links)}\n</nav>')
    if overall is not None:
        parts.append('<section id="all">\n<h2>All images</h2>')
        parts.extend(_explanation(overall, folder))
        parts.append('</section>')
    for number, entry in enumerate(entries, 1):
        parts.append(f'<section id="image-{number}">\n<header class="image">{_image(entry.thumbnail, "the input")}')
        parts.append(f'<div><h2>{html.escape(entry.name)}</h2>')
        parts.append(f'<span class="faint">{html.escape(str(entry.source))}</span></div></header>')
        parts.extend(_explanation(entry.explanation, folder))
        parts.append('</section>')
    parts.append('</body>\n</html>\n')
    with atomic_path(path) as file:
        # A file name may hold bytes that are no text.
        file.write_text('\n'.join(parts), 'utf-8', errors='replace')
    return Path(path)


def _explanation(found: Explanation, folder: Path) -> Iterator[str]:
    for caption, picture in found.pictures:
        address, shape = _embedded(Path(picture))
        kind = 'picture wide' if shape > WIDE else 'picture'
        shown = f'<a href="{_link(picture, folder)}">{_image(address, caption)}</a>'
        yield f'<figure><div class="{kind}">{shown}</div><figcaption>{html.escape(caption)}</figcaption></figure>'
    yield from _facts(plain(found.facts))
    if found.data:
        links = (f'<a href="{_link(file, folder)}">{html.escape(Path(file).name)}</a>' for file in found.data)
        yield f'<p class="faint">Files: {", ".join(links)}</p>'


def _image(address: str, text: str) -> str:
    return f'<img src="{address}" alt="{html.escape(text)}">'


def _link(file: str | Path, folder: Path) -> str:
    relative = os.path.relpath(os.path.abspath(file), os.path.abspath(folder))
    # './' keeps a colon in a name from being read as a scheme.
    return html.escape('./' + quote(os.fsencode(relative.replace(os.sep, '/'))))


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Single values in a table, then a table of its own for each list of records."""
    single = {key: value for key, value in facts.items() if not _is_records(value)}
    if single:
        yield _value(single)
    for key in (key for key in facts if key not in single):
        yield f'<h3>{html.escape(str(key))}</h3>\n{_value(facts[key])}'


def _is_records(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _value(value: Any) -> str:
    """A value as text or as a table."""
    if isinstance(value, Mapping):
        rows = ''.join(f'<tr><th scope="row">{html.escape(str(key))}</th>{_cell(value[key])}</tr>' for key in value)
        return f'<div class="table"><table>{rows}</table></div>' if rows else ''
    if _is_records(value):
        keys = list(dict.fromkeys(key for entry in value for key in entry))
        head = ''.join(f'<th scope="col">{html.escape(str(key))}</th>' for key in keys)
        cells = (''.join(_cell(entry.get(key)) for key in keys) for entry in value)
        rows = ''.join(f'<tr class="record">{row}</tr>' for row in cells)
        return f'<div class="table"><table><tr>{head}</tr>{rows}</table></div>'
    return html.escape(_text(value))


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td{" class=number" if number else ""}>{_value(value)}</td>'


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        parts = [f'({_text(entry)})' if isinstance(entry, list | tuple) else _text(entry) for entry in value[:LONGEST]]
        return ', '.join(parts) + (f', ... ({len(value)})' if len(value) > LONGEST else '')
    if value is None:
        return '-'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.4g}'
    return str(value)
