"""What is wrong with an archive, and how it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ['Fault', 'Report']

SHOWN = 5
"""Faults of a kind that are listed unless all are asked for."""


@dataclass(frozen=True)
class Fault:
    """One thing that a test server would refuse or score wrongly.

    Args:
        kind: A few words, the same for all faults of the kind.
        where: File or entry in the archive.
        reason: What came and what was expected.
    """

    kind: str
    where: str
    reason: str


@dataclass
class Report:
    """What was found in an archive.

    Args:
        content: What it holds, for people.
        faults: What is wrong.
        notes: What is worth knowing, and what could not be checked.
    """

    content: str
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, *, complete: bool = False) -> list[str]:
        """The report as text.

        Args:
            complete: Whether to list every fault; otherwise the first five of each kind, with the number of the others.

        Returns:
            One line for each.
        """
        verdict = f'{len(self.faults)} faults' if self.faults else 'no faults'
        lines = [f'{self.content}: {verdict}']
        totals = Counter(fault.kind for fault in self.faults)
        for kind, total in totals.items():
            found = [fault for fault in self.faults if fault.kind == kind]
            shown = found if complete else found[:SHOWN]
            lines += [f'  {kind}: {fault.where}: {fault.reason}' for fault in shown]
            if len(shown) < total:
                lines.append(f'  {kind}: {total - len(shown)} more')
        return lines + [f'  note: {note}' for note in self.notes]
