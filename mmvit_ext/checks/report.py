"""What a check of every sample reports: findings, notes, and how often each class occurs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmvit_ext.files import atomic_path

__all__ = ['DatasetReport', 'Finding', 'write_fix_list']

_NAME_WIDTH = 32  # ImageNet's names list synonyms


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: str  # missing file, unreadable image, unreadable label map, size, label values, empty labels, box, annotation
    path: str  # the file to repair or remove
    reason: str  # a sentence that names the file


@dataclass
class DatasetReport:
    """What was found in one dataset."""

    key: str  # its dotted key in the config; several where datasets are the same
    samples: int = 0
    findings: list[Finding] = field(default_factory=list)
    classes: Sequence[str] | None = None  # where they are known
    histogram: np.ndarray | None = None  # of each class, in ``unit``
    unit: str = ''  # pixels, objects or images
    notes: list[str] = field(default_factory=list)  # what is worth knowing but no fault

    def lines(self, shown: int | None = None) -> Iterator[str]:
        """The report as text, with so many findings listed; all of them by default."""
        kinds = Counter(finding.kind for finding in self.findings)
        verdict = ', '.join(f'{count} x {kind}' for kind, count in kinds.most_common()) or 'nothing wrong'
        yield f'{self.key}: {self.samples} images: {verdict}'
        for finding in self.findings[:shown]:
            yield f'  {finding.kind}: {finding.reason}'
        if shown is not None and len(self.findings) > shown:
            yield f'  ... and {len(self.findings) - shown} more'
        for note in self.notes:
            yield f'  note: {note}'
        if self.histogram is None or not (total := self.histogram.sum()):
            return
        names = self.classes or [f'class {index}' for index in range(len(self.histogram))]
        present = [(str(names[index])[:_NAME_WIDTH], self.histogram[index]) for index in self.histogram.nonzero()[0]]
        width = max(len(name) for name, _ in present)
        yield f'  {self.unit} of each class:'
        for name, count in sorted(present, key=lambda entry: -entry[1]):
            yield f'    {name:{width}} {count:>12}  {count / total:7.2%}'
        if absent := [str(name) for name, count in zip(names, self.histogram, strict=True) if not count]:
            shown_names = ', '.join(absent[:10]) + (f' and {len(absent) - 10} more' if len(absent) > 10 else '')
            yield f'  note: {len(absent)} classes never occur: {shown_names}'


def write_fix_list(path: str | Path, reports: Sequence[DatasetReport]) -> int:
    """Write the files to repair or remove, a line each: path, tab, what is wrong. Returns the number of lines."""
    by_path: dict[str, list[str]] = {}
    for finding in (finding for report in reports for finding in report.findings):
        by_path.setdefault(finding.path, []).append(finding.reason)
    lines = [f'{name}\t{"; ".join(dict.fromkeys(reasons))}\n' for name, reasons in sorted(by_path.items())]
    with atomic_path(path) as file:
        file.write_text(''.join(lines), encoding='utf-8', errors='surrogateescape')
    return len(lines)
