"""Rows of tables, whatever file they are in."""

import csv
import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from .index import Index

__all__ = ['read_rows']


def read_rows(index: Index, path: str) -> list[list[str]]:
    """The rows of a CSV, TSV or JSON file or of a list of paths and labels, without those of another length.

    A file called as an image is none, it says something about that image alone.
    """
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    if suffix not in ('.csv', '.tsv', '.txt', '.json') or index.is_picture(pure.stem):
        return []
    if suffix == '.json':
        rows = _json_rows(index.read(path))
    else:
        lines = [line for line in index.read(path).splitlines() if line.strip() and not line.startswith('#')]
        mark = next((mark for mark in '\t;,' if lines and mark in lines[0]), None)
        if mark is None and suffix != '.txt':
            return []
        try:
            rows = list(csv.reader(lines, delimiter=mark)) if mark else [line.rsplit(maxsplit=1) for line in lines]
        except csv.Error:  # another kind of text
            return []
    if not rows:
        return []
    width = Counter(map(len, rows)).most_common(1)[0][0]
    return [[cell.strip() for cell in row] for row in rows if len(row) == width] if width > 1 else []


def _json_rows(text: str) -> list[list[str]]:
    """A dictionary of paths, or a list of dictionaries, which have the columns' names."""
    if text[:200].count('"') < 2:
        return []
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(content, dict) and all(isinstance(value, str | int) for value in content.values()):
        return [[str(key), str(value)] for key, value in content.items()]
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        names = [key for key, value in content[0].items() if isinstance(value, str | int | float)]
        return [names, *([str(item.get(name, '')) for name in names] for item in content)]
    return []
