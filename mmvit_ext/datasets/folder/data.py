"""What is known of a folder: its samples and classes, and the sentences that say what was understood and left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmvit_ext.errors.user_error import UserError

__all__ = ['FolderData', 'Object', 'Report', 'Sample', 'shown', 'size_text']

LEFT_OUT = 0.2
"""Largest share of the files that is left out; a folder with more mistakes is refused."""

_SHOWN = 5


@dataclass(frozen=True)
class Object:
    """An object of an image."""

    label: int  # index of its class
    box: tuple[float, float, float, float]  # left, top, width and height in pixels
    mask: Any = None  # polygons or run lengths of the COCO format
    area: float | None = None  # of the mask, where it is known
    crowd: bool = False  # whether detectors are neither trained nor scored on it


@dataclass(frozen=True)
class Sample:
    """An image and its annotation, their paths relative to the folder."""

    image: str
    size: tuple[int, int]  # height and width
    split: str | None = None  # as the folder says it
    mask: str | None = None
    parts: tuple[tuple[int, str], ...] = ()  # class and file of each mask that the mask is to be merged of
    label: int | None = None
    objects: tuple[Object, ...] = ()


@dataclass(frozen=True)
class FolderData:
    """What :func:`understand` found out about a folder."""

    root: Path
    task: str  # seg, det, inst or cls
    layout: str  # in plain words
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None
    splits: Mapping[str, Sequence[Sample]]  # train, val and, where it has annotations, test
    channels: int  # of the images as they are loaded: 1, 3 or 4
    bits: int  # of each channel
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # smallest, median and largest (H, W)
    background: int | None = None  # index of the class that is background
    load_annotations: dict[str, Any] | None = None  # the step that turns masks into class indices
    notes: tuple[str, ...] = ()  # what was understood
    doubts: tuple[str, ...] = ()  # what was guessed or left out, and how to say it otherwise


def shown(items: Sequence[Any], most: int = _SHOWN) -> str:
    """The first items of a list, and how many there are more."""
    text = ', '.join(map(str, items[:most]))
    return text if len(items) <= most else f'{text} and {len(items) - most} more'


def size_text(size: tuple[int, int]) -> str:
    """Height and width as they are told, the width first."""
    return f'{size[1]}x{size[0]}'


@dataclass
class Report:
    """Collects what is to be told to the user."""

    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def leave_out(self, files: Sequence[str], total: int, reason: str, remedy: str) -> None:
        """Say which files are left out and why, or refuse the folder where they are too many of the ``total``."""
        if not files:
            return
        text = f'{len(files)} of {total} {reason}: {shown(files)}'
        if len(files) > max(1, LEFT_OUT * total):
            raise UserError(f'{text}; that is too many to leave out: {remedy}')
        self.doubts.append(f'left out {text}; to use them, {remedy}')
