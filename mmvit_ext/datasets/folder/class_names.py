"""Class names from the files that datasets have them in: lists, tables of colours, YAML and JSON."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from .index import Index
from .words import split_of

__all__ = ['KNOWN', 'ClassNames', 'is_no_label', 'read_class_names']

_NO_LABEL = re.compile('void|ignored?|unlabell?ed|unknown|border|edge|dont[ _-]?care|no[ _-]?label|unannotated', re.I)
_FILE = re.compile(r'class|label|names|categor|colou?r|palette|legend|objectinfo|code|synset|words|config|meta', re.I)
_LONGEST = 2_000_000


def is_no_label(name: str) -> bool:
    """Whether a class is called what stands for pixels that nobody labelled."""
    return bool(_NO_LABEL.fullmatch(name.strip().replace("'", '')))


@dataclass(frozen=True)
class ClassNames:
    """Class names by the number or the colour that annotations hold."""

    by_id: dict[int, str] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)  # by RGB as one number
    by_word: dict[str, str] = field(default_factory=dict)  # by the name of a class folder
    source: str = ''


@dataclass(frozen=True)
class _Known:
    """A dataset whose masks hold numbers that no file of it explains."""

    name: str  # mmseg's
    first: Sequence[int]
    ignored: Sequence[int]

    def ids(self) -> dict[int, str]:
        """Class names by value."""
        from mmseg.utils import get_classes

        return dict(zip(self.first, get_classes(self.name), strict=True))

    def palette(self) -> list[list[int]]:
        """Their colours."""
        from mmseg.utils import get_palette

        return get_palette(self.name)


_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

KNOWN: Mapping[str, _Known] = {
    'Cityscapes (19 classes)': _Known('cityscapes', _CITYSCAPES, sorted({*range(34)} - set(_CITYSCAPES))),
    'Cityscapes (training ids)': _Known('cityscapes', range(19), (255,)),
    'PASCAL VOC': _Known('voc', range(21), (255,)),
    'ADE20K': _Known('ade', range(1, 151), (0,)),
}


def read_class_names(index: Index) -> ClassNames:
    """What the files of a folder that may hold class names say; the best of several."""
    best = ClassNames()
    for path in sorted(index.texts, key=lambda path: (path.count('/'), path)):
        pure = PurePosixPath(path)
        says = _FILE.search(pure.name) or pure.suffix.lower() in ('.yaml', '.yml')
        if pure.suffix.lower() == '.xml' or split_of(pure.stem) or not says:
            continue
        # A file called as an image says something about that image, and so do lines that begin with one.
        if (index.root / path).stat().st_size > _LONGEST or index.is_picture(pure.stem):
            continue
        begins = [re.split(r'[\s,;]', line.strip(), maxsplit=1)[0] for line in index.read(path).splitlines()[:1000]]
        # Numbers that images are called as, too, are those of classes; 0001 is an image's.
        named = [word for word in begins if index.is_picture(word) and not re.fullmatch('0|[1-9][0-9]*', word)]
        if len(named) > 0.5 * len(begins):
            continue
        names = _parse(index.read(path), pure.suffix.lower(), path)
        if names and _worth(names) > _worth(best):
            best = names
    return best


def _worth(names: ClassNames) -> int:
    return 2 * bool(names.colours) + bool(names.by_id or names.by_word)


def _parse(text: str, suffix: str, path: str) -> ClassNames | None:
    try:
        if suffix in ('.yaml', '.yml'):
            return _structured(yaml.safe_load(text), path)
        if suffix == '.json':
            return _structured(json.loads(text), path)
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError, RecursionError):  # other content
        return None
    return _table(text, path) or _lines(text, path)


def _structured(content: Any, path: str) -> ClassNames | None:
    """Names in YAML or JSON: a list, a dictionary either way round, or a list of dictionaries."""
    if isinstance(content, dict):
        for key in ('names', 'classes', 'labels', 'categories', 'id2label'):
            if isinstance(content.get(key), list | dict):
                return _structured(content[key], path)
    if isinstance(content, list) and content and all(isinstance(item, str | int) for item in content):
        return ClassNames(dict(enumerate(map(str, content))), source=path)
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        known = [key for key in ('name', 'title', 'label', 'key') if key in content[0]]
        if not known:
            return None
        key = known[0]
        colours: dict[int, str] = {}
        for item in content:
            colour = item.get('color', item.get('colour'))
            if isinstance(colour, str):  # '#ff0000'
                colour = list(bytes.fromhex(colour.lstrip('#')))
            if isinstance(colour, list) and len(colour) >= 3:
                colours[_packed(colour)] = str(item[key])
        numbers = {int(item.get('id', number)): str(item[key]) for number, item in enumerate(content)}
        return ClassNames(numbers, colours, source=path)
    if isinstance(content, dict) and content:
        values, items = content.values(), content.items()
        if all(isinstance(value, str) for value in values):
            if all(str(key).isdigit() for key in content):
                return ClassNames(dict(sorted((int(key), value) for key, value in items)), source=path)
            return ClassNames(by_word={str(key): value for key, value in items}, source=path)
        if all(isinstance(value, int) for value in values):
            return ClassNames(dict(sorted((value, str(key)) for key, value in items)), source=path)
        if all(isinstance(value, list) and len(value) == 3 for value in values):
            return ClassNames(colours={_packed(value): str(key) for key, value in items}, source=path)
    return None


def _packed(colour: Sequence[Any]) -> int:
    red, green, blue = (int(value) & 255 for value in colour[:3])
    return red << 16 | green << 8 | blue


_LINES: Sequence[tuple[str, str, Callable[[re.Match[str]], tuple[Any, str]]]] = (
    # CamVid's "64 128 64 Animal", and "Animal: 64, 128, 64", which CVAT and class_dict.csv have in their ways.
    ('colours', r'(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\S.*)', lambda m: (_packed(m.groups()[:3]), m[4])),
    (
        'colours',
        r'"?([^\d\s,;:][^,;:]*?)"?[\s,;:]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)(?:[\s,;:]+.*|:.*)?',
        lambda m: (_packed(m.groups()[1:4]), m[1]),
    ),
    ('by_id', r'(\d+)\s*[:,;\s]\s*(\S.*)', lambda m: (int(m[1]), m[2].strip())),
    ('by_id', r'(.*[^\d\s,;:])\s*[,;:]\s*(\d+)', lambda m: (int(m[2]), m[1])),
    ('by_word', r'(n\d{8}|/m/\w+)[\s,]+(\S.*)', lambda m: (m[1], m[2].split(',')[0].strip())),
)
"""What lines with a name say beside it, their form, and the key and the name in one."""


def _lines(text: str, path: str) -> ClassNames | None:
    """Lines with a name each, behind its number or beside its colour."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(('#', '//'))]
    if not lines or '\0' in text:
        return None
    for what, form, read in _LINES:
        found = [match for line in lines if (match := re.fullmatch(form, line))]
        # Tables of colours may have a heading.
        if len(found) >= (max(1, len(lines) - 1) if what == 'colours' else len(lines)):
            return ClassNames(**{what: dict(map(read, found))}, source=path)  # type: ignore[arg-type]
    if len(lines) <= 5000 and all(len(line) <= 80 for line in lines):
        return ClassNames(dict(enumerate(line.strip('",') for line in lines)), source=path)
    return None


_NUMBERS = ('id', 'idx', 'index', 'value', 'pixel_value', 'class_id', 'label_id')


def _table(text: str, path: str) -> ClassNames | None:
    """A table with a heading, of which a column is the name and others are the number or the colour."""
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = next((mark for mark in '\t,;' if lines and mark in lines[0]), None)
    if delimiter is None:
        return None
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    fields = {
        re.sub(r'[\s_]+', '_', str(name).strip().lower().lstrip('# ')): name for row in rows[:1] for name in row if name
    }
    name = next((fields[key] for key in ('name', 'class', 'label', 'class_name', 'label_name') if key in fields), None)
    if name is None or not rows:
        return None
    colour = [fields.get(short) or fields.get(long) for short, long in (('r', 'red'), ('g', 'green'), ('b', 'blue'))]
    number = next((fields[key] for key in _NUMBERS if key in fields), None)
    try:
        if all(colour):
            colours = {_packed([row[key] for key in colour]): row[name].strip() for row in rows}
            return ClassNames(colours=colours, source=path)
        if number is not None:
            return ClassNames({int(row[number]): row[name].split(';')[0].strip() for row in rows}, source=path)
    except (AttributeError, TypeError, ValueError, KeyError):  # also of a row that is too short
        pass
    return None
