"""Recorded runs from `results/` (`kvlab bench` writes them), with where they come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab.measure.report import Report, read_report

from .tables import card, inline


@dataclass(frozen=True)
class Recorded:
    """One recorded run: `.rows` are the measured points, `.caption` says where they come from."""

    name: str
    report: Report

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The measured points; timed ones keep all samples under "seconds"."""
        return self.report.rows

    def select(self, **equal: Any) -> list[dict[str, Any]]:
        """The rows with these values. ValueError if there are none, with the values that there are."""
        found = [row for row in self.rows if all(row.get(key) == want for key, want in equal.items())]
        if not found:
            there = {key: sorted({str(row.get(key)) for row in self.rows}) for key in equal}
            raise ValueError(f"results/{self.name}.json has no row with {equal}; there are {there}")
        return found

    @property
    def caption(self) -> str:
        """Device, date, versions and commit in one line."""
        versions = self.report.versions
        stack = ", ".join(f"{n} {versions[n]}" for n in ("torch", "transformers") if n in versions)
        commit, _, changed = self.report.commit.partition("+")
        mark = f"{commit[:10]}{'+' if changed else ''}{changed}"
        return f"Recorded on {self.report.device}, {self.report.date[:10]}, {stack}, commit {mark}."

    def __repr__(self) -> str:
        return self.caption


@dataclass(frozen=True)
class NotMeasured:
    """Stands for a run that nobody has recorded yet; false in an `if`, and says so where it is shown."""

    name: str
    text: str

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return card(inline(self.text))

    @property
    def caption(self) -> str:
        """The same line, for a figure's caption."""
        return self.text


def results_folder() -> Path:
    """`KVLAB_RESULTS` where set, else `results/` of the repository. FileNotFoundError says how to get it."""
    named = os.environ.get("KVLAB_RESULTS")
    if named:
        folder = Path(named)
    else:
        folder = Path(__file__).resolve().parents[2] / "results"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder.name}/ with recorded runs: it comes with the repository; "
            "set KVLAB_RESULTS to it if the package is installed elsewhere"
        )
    return folder


def unmeasured(part: str) -> str:
    """What stands in the place of a GPU figure, for a part of `kvlab bench gpu`."""
    return (
        f"Not yet measured on a GPU. Where there is one, "
        f"`python -m kvlab bench gpu --only {part} --out results` measures it."
    )


def recorded(name: str, gpu: bool = False) -> Recorded | NotMeasured:
    """The run `results/<name>.json`.

    With `gpu=True`, for the records `gpu-<part>` of `kvlab bench gpu`, a run that does not exist gives
    `NotMeasured`, which says how to measure it, so that a lesson can show the rest; otherwise
    FileNotFoundError lists the runs there are. ValueError: the file is no recorded run.
    """
    path = results_folder() / f"{name}.json"
    if not path.is_file():
        if gpu:
            return NotMeasured(name, unmeasured(name.removeprefix("gpu-")))
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no recorded run {name!r} in results/; there are: {there}")
    return Recorded(name, read_report(path))
