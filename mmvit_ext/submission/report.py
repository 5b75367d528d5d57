"""What the check of an archive found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mmvit_ext.errors.user_error import printable

__all__ = ['Fault', 'Report']

SHOWN = 5
"""Faults of a kind that are listed unless all are asked for."""
KEPT = 1000
"""Faults of a kind that are kept: the rest is counted."""
LONGEST = 300
"""Characters of a name or reason."""


@dataclass(frozen=True)
class Fault:
    """What a test server would refuse or score wrongly: its kind, the file or entry, what was found and expected."""

    kind: str
    where: str
    reason: str


@dataclass
class Report:
    """What an archive holds, what is wrong with it, and notes on what else is worth knowing or was not checked."""

    content: str
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, where: str, reason: str) -> None:
        """Add a fault."""
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            where, reason = (text if len(text) <= LONGEST else f'{text[:LONGEST]}...' for text in (where, reason))
            self.faults.append(Fault(kind, printable(where), printable(reason)))

    def lines(self, *, complete: bool = False) -> list[str]:
        """The report as lines of text: the first five faults of each kind, or the first thousand."""
        lines = [f'{self.content}: {self.counts.total() or "no"} faults']
        for kind, total in self.counts.items():
            found = [fault for fault in self.faults if fault.kind == kind]
            shown = found if complete else found[:SHOWN]
            lines += [f'  {kind}: {fault.where}: {fault.reason}' for fault in shown]
            if len(shown) < total:
                lines.append(f'  {kind}: {total - len(shown)} more')
        return lines + [f'  note: {note}' for note in self.notes]
