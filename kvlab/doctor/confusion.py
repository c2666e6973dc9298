"""Which misuse is named as which: planted in rows, reported in columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvlab.doctor.report import Report
from kvlab.doctor.subject import Subject

NOTHING = "nothing found"


@dataclass(frozen=True)
class Confusion:
    """`cells[planted][reported]`: 1 where it was named, a part of it where a class of several was."""

    cells: dict[str, dict[str, float]]
    reports: dict[str, Report]

    @property
    def columns(self) -> list[str]:
        """Everything that was reported: the planted names first, in their order."""
        told = {name for row in self.cells.values() for name in row}
        return [name for name in self.cells if name in told] + sorted(told - self.cells.keys())

    @property
    def missed(self) -> list[str]:
        """Planted misuses that are not among the names reported for them."""
        return [planted for planted, row in self.cells.items() if planted not in row]

    def __str__(self) -> str:
        width = max(map(len, self.cells), default=0)
        return "\n".join(
            f"{planted:<{width}}  "
            + ", ".join(name if share == 1 else f"{name} ({share:.0%})" for name, share in row.items())
            for planted, row in self.cells.items()
        )


def confusion(plants: Mapping[str, Subject | Callable[[], Report]]) -> Confusion:
    """Check every plant, named by its misuse. A plant is a subject, or a function that returns a report."""
    from kvlab.doctor.check import check

    cells: dict[str, dict[str, float]] = {}
    reports: dict[str, Report] = {}
    for planted, subject in plants.items():
        report = check(subject) if isinstance(subject, Subject) else subject()
        told = [name for finding in report.findings for name in finding.names]
        cells[planted] = {name: 1 / len(told) for name in dict.fromkeys(told)} or {NOTHING: 1.0}
        reports[planted] = report
    return Confusion(cells, reports)
