"""Classes of whole images: folders called as the classes, and tables of paths with their labels or masks."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from mmvit_ext.errors.user_error import UserError

from .class_names import ClassNames
from .data import Report, shown
from .index import Index
from .tables import read_rows
from .words import Places, split_of

__all__ = ['Labelled', 'are_classes', 'class_indices', 'read_class_folders', 'read_table']

_MOST_CLASSES = 0.5
"""Number of classes per image above which a column is no label."""


_LABEL_HEADINGS = ('label', 'class', 'category', 'target', 'class_name', 'species', 'y')


@dataclass
class Labelled:
    """Class or mask of images."""

    layout: str
    labels: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    several: dict[str, list[str]] = field(default_factory=dict)  # masks of one class or object each
    splits: dict[str, str] = field(default_factory=dict)
    unpaired: list[str] = field(default_factory=list)  # images without any of these
    lone: list[str] = field(default_factory=list)  # masks without image


def read_class_folders(index: Index, places: Places, report: Report, *, by_name: bool = False) -> Labelled | None:
    """Classes that are the names of folders, below a split or not, or if asked for what file names begin with."""
    images = [(path, PurePosixPath(path).parts[:-1]) for path in index.pictures]
    depth = max(len(parts) for _, parts in images)
    kept = []
    for level in range(depth):
        names = Counter(parts[level] for _, parts in images if len(parts) > level)
        splits = sum(
            count
            for name, count in names.items()
            if split_of(name) and places.is_split(_parts_to(images, level, name), name)
        )
        if splits * 2 <= sum(names.values()) and len(names) > 1:
            kept.append(level)
    labels = {path: '/'.join(parts[level] for level in kept if level < len(parts)) for path, parts in images}
    labels = {path: label for path, label in labels.items() if label}
    if len(set(labels.values())) < 2 and by_name:
        labels = {path: re.split(r'[\W_]*\d', PurePosixPath(path).stem)[0] for path, _ in images}
        report.doubts.append('the classes are what the file names begin with: put each class into a folder of its own')
    if len(set(labels.values())) < 2:
        return None
    found = Labelled(f'a folder for each of {len(set(labels.values()))} classes', labels)
    last = {label: label.rpartition('/')[2] for label in labels.values()}
    if len(set(last.values())) == len(last):
        found.labels = {path: last[label] for path, label in labels.items()}
    found.unpaired = [path for path, _ in images if path not in labels]
    return found


_DATES = re.compile(r'(19|20)\d\d|dcim|^\d{3}[a-z]{4,5}$', re.I)


def are_classes(names: Iterable[str], images: int) -> bool:
    """Whether folders are called as classes may be, and not as dates, series or single cases."""
    names = set(names)
    bare = {re.sub('[^a-z]', '', name.lower()) for name in names}
    series = len(bare) == 1 and bare != {''} and not all(re.fullmatch(r'n\d{8}', name) for name in names)
    return not (series or all(map(_DATES.search, names)) or images < 2 * len(names))


def _parts_to(images: Sequence[tuple[str, tuple[str, ...]]], level: int, name: str) -> str:
    """The folder above the one with a name at a level."""
    parts = next(parts for _, parts in images if len(parts) > level and parts[level] == name)
    return str(PurePosixPath(*parts[:level]))


def read_table(index: Index, report: Report) -> Labelled | None:
    """Paths with labels or masks in CSV or TSV files, or in lists with a path and a label a line."""
    found = Labelled('')
    used = []
    for path in index.texts_of('.csv', '.tsv', '.txt', '.json'):
        rows = [] if 'submission' in path.lower() else read_rows(index, path)
        if rows and _read_rows(index, path, rows, found, report):
            used.append(path)
    if not used:
        return None
    found.layout = f'table{"s" * (len(used) > 1)} {shown(used)}'
    return found


def _read_rows(index: Index, path: str, rows: list[list[str]], found: Labelled, report: Report) -> bool:
    """Take the columns of a table that are paths, labels and splits; whether there are some."""
    columns = list(zip(*rows, strict=True))
    paths = [[index.find(cell, near=path) for cell in column] for column in columns]
    named = [sum(cell is not None for cell in column) >= 0.8 * (len(rows) - 1) > 0 for column in paths]
    files = [sum(map(index.names_file, column)) >= 0.5 * len(rows) for column in columns]
    named = [
        found and (file or not _is_label(cell, index)) for found, file, cell in zip(named, files, rows[0], strict=True)
    ]
    if any(found and file for found, file in zip(named, files, strict=True)):  # the others are numbers or words
        named = [found and file for found, file in zip(named, files, strict=True)]
    if not any(named):
        return False
    first = named.index(True)
    heading = [cell.lower() for cell in rows[0]] if paths[first][0] is None else []
    begin = 1 if heading else 0
    missing = [cell for cell, image in zip(columns[first][begin:], paths[first][begin:], strict=True) if image is None]
    report.leave_out(missing, len(rows) - begin, f'images of {path} do not exist', 'add them or remove their lines')
    masks = next(
        (
            n
            for n in range(len(columns))
            if n > first and named[n] and set(paths[n]).isdisjoint({*paths[first]} - {None})
        ),
        None,
    )
    if masks is not None and heading and 'mask' in heading[first]:
        first, masks = masks, first
    others = [n for n in range(len(columns)) if not named[n]]
    split = next((n for n in others if all(split_of(cell) for cell in columns[n][begin:])), None)
    label = None if masks is not None else _label_column(columns, heading, [n for n in others if n != split], begin)
    if masks is None and label is None:
        return False
    in_file, nameless = split_of(PurePosixPath(path).stem), []
    several: dict[str, str] = {}
    for number in range(begin, len(rows)):
        image = paths[first][number]
        if image is None:
            continue
        if masks is not None:
            if (mask := paths[masks][number]) is not None:
                found.masks[image] = mask
        elif isinstance(label, int):
            if not columns[label][number]:
                nameless.append(columns[first][number])
                continue
            if found.labels.get(image, columns[label][number]) != columns[label][number]:
                several[image] = f'{columns[first][number]} ({found.labels[image]}, {columns[label][number]})'
            found.labels[image] = columns[label][number]
        else:
            chosen = [heading[n] for n in label or () if float(columns[n][number]) == 1]
            found.labels[image] = chosen[0]
        said = split_of(columns[split][number]) if split is not None else in_file
        if said:
            found.splits[image] = said
    report.leave_out(
        list(several.values()), len(found.labels), f'images of {path} have several labels', 'leave one line for each'
    )
    found.labels = {image: name for image, name in found.labels.items() if image not in several}
    report.leave_out(
        nameless, len(rows) - begin, f'lines of {path} have no label', 'add the labels or remove the lines'
    )
    if isinstance(label, int) and len(columns) > 2:
        report.notes.append(f'labels: {f"column {heading[label]}" if heading else f"column {label + 1}"} of {path}')
    return True


def _is_label(heading: str, index: Index) -> bool:
    return heading.lower() in _LABEL_HEADINGS and not index.is_picture(heading)


def _label_column(
    columns: Sequence[Sequence[str]], heading: Sequence[str], others: Sequence[int], begin: int
) -> int | list[int] | None:
    """The column of labels, or those of a table with a column of 0 and 1 for each class."""
    rows = len(columns[0]) - begin
    by_name = [n for n in others if heading and heading[n] in _LABEL_HEADINGS]
    if by_name:
        return by_name[0]
    values = {n: columns[n][begin:] for n in others}
    if heading and len(others) > 1 and all(set(cells) <= {'0', '1', '0.0', '1.0'} for cells in values.values()):
        if all(sum(float(values[n][row]) for n in others) == 1 for row in range(rows)):
            return list(others)
        return None
    fitting = [n for n in others if 1 < len(set(values[n])) <= max(2, _MOST_CLASSES * rows)]
    return fitting[0] if len(fitting) == 1 or (fitting and not heading) else None


def class_indices(labels: dict[str, str], names: ClassNames, report: Report) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, sorted, and the index of each image's; numbers are looked up in files of names."""
    values = sorted(set(labels.values()))
    if all(value.isdigit() for value in values):
        numbers = sorted({int(value) for value in values})
        wanted = {n: names.by_id.get(n) for n in (names.by_id if set(numbers) <= set(names.by_id) else numbers)}
        if set(numbers) <= set(names.by_id):
            order = {n: k for k, n in enumerate(wanted)}
            return tuple(str(name) for name in wanted.values()), {path: order[int(v)] for path, v in labels.items()}
        if names.by_id:
            report.doubts.append(f'{names.source} does not name all of the classes {shown(numbers)}: it is not used')
        values = [value for _, value in sorted((int(value), value) for value in values)]
    if len(values) < 2:
        raise UserError(f'all images are of one class, {shown(values)}: a classifier needs at least two')
    order_of = {value: number for number, value in enumerate(values)}
    return tuple(names.by_word.get(value, value) for value in values), {path: order_of[v] for path, v in labels.items()}
