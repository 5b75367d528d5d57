"""What an explanation of an image consists of, and the page of a run: one HTML file with all pictures, no script."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import jinja2
import numpy as np

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.inference.sheets import fit_edge
from mmvit_ext.version import __version__

__all__ = ['Entry', 'Explanation', 'encode_thumbnail', 'plain', 'write_arrays', 'write_facts', 'write_page']

THUMBNAIL = 256  # longer edge of the picture of an input in pixels
EMBEDDED_EDGE = 2000  # longer edge in pixels above which a picture is embedded smaller; the file stays
EMBEDDED_BYTES = 600_000  # up to which a picture is embedded without loss, so that a long page can still be opened
LONGEST = 12  # entries of a list of numbers that the page shows; the JSON file has all of them
WIDE = 1.6  # width over height from which a picture is scrolled sideways on a narrow screen, where it could not be read


@dataclass(frozen=True)
class Explanation:
    """What a method found out about an image, or about all images of a run."""

    pictures: Sequence[tuple[str, Path]] = ()  # caption and file of each, in the order in which they are shown
    facts: Mapping[str, Any] = field(default_factory=dict)  # what :func:`plain` takes, by what it is
    data: Sequence[Path] = ()  # further files that were written


@dataclass(frozen=True)
class Entry:
    """An image on the page: name of its results, file, small picture (:func:`encode_thumbnail`) and what was found."""

    name: str
    source: Path
    thumbnail: str
    explanation: Explanation


def plain(value: Any) -> Any:
    """Facts, numpy's and PyTorch's numbers and arrays among them, as JSON can hold them; NaN becomes ``None``."""
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
    """Write facts as JSON and return the file."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(plain(facts), indent=1, allow_nan=False, ensure_ascii=False) + '\n', 'utf-8')
    return Path(path)


def write_arrays(path: Path, **arrays: Any) -> Path:
    """Write arrays by name as ``.npz``, whole or not at all, and return the file."""
    with atomic_path(path) as file:
        np.savez_compressed(file, **arrays)
    return path


def encode_thumbnail(image: np.ndarray, edge: int = THUMBNAIL) -> str:
    """The ``data:`` address of an RGB image (H, W, 3), 8 bit, whose longer edge is made no longer than ``edge``."""
    return _address(_encode('.jpg', _shrunk(np.ascontiguousarray(image[..., ::-1]), edge)))


def _shrunk(pixels: np.ndarray, edge: int) -> np.ndarray:
    if max(pixels.shape[:2]) <= edge:
        return pixels
    return cv2.resize(pixels, fit_edge(pixels.shape, edge), interpolation=cv2.INTER_AREA)


def _encode(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == '.jpg' else [])[1].tobytes()


def _address(content: bytes) -> str:
    kind = 'png' if content.startswith(b'\x89PNG') else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _embedded(path: Path) -> tuple[str, bool]:
    """A picture's ``data:`` address and whether it is wide."""
    content = path.read_bytes()
    # OpenCV, because Pillow takes the montages of large pictures for an attack.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UserError(f'{path} is not a picture that can be read: expected PNG or JPEG')
    wide = pixels.shape[1] > WIDE * pixels.shape[0]
    if max(pixels.shape) > EMBEDDED_EDGE or len(content) > EMBEDDED_BYTES:
        pixels = _shrunk(pixels, EMBEDDED_EDGE)
        content = _encode('.png', pixels)
        content = content if len(content) <= EMBEDDED_BYTES else _encode('.jpg', pixels)
    return _address(content), wide


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
    """Write the page of a run and return the file; files of the explanations are linked relative to its folder."""
    folder = Path(path).parent.absolute()

    def address(file: Path) -> str:
        relative = os.path.relpath(os.path.abspath(file), folder)
        # './' keeps a colon in a name from being read as a scheme.
        return './' + quote(os.fsencode(relative.replace(os.sep, '/')))

    loader = jinja2.PackageLoader('mmvit_ext.interpret', '')
    environment = jinja2.Environment(loader=loader, autoescape=True, keep_trailing_newline=True)
    environment.filters.update(address=address, embed=_embedded, plain=plain, text=_text)
    environment.tests.update(records=_is_records)
    shown = {'title': title, 'entries': entries, 'overall': overall, 'legend': legend}
    run, failures = {**run, 'mmvit_ext': __version__}, {str(source): reason for source, reason in failed}
    page = environment.get_template('report.html.j2').render(shown, run=run, failed=failures)
    with atomic_path(path) as file:
        # A file name may hold bytes that are not text.
        file.write_text(page, 'utf-8', errors='replace')
    return Path(path)


def _is_records(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


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
