"""The learner's own copies of the lessons: filled from notebooks/, never overwriting what was changed.

A small manifest in the folder remembers, for every copy, the hash of what was written. A copy that
still has that hash is untouched and follows its lesson; any other belongs to the learner.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = ".kvlab.json"
REVEAL = "reveal"


@dataclass
class Report:
    """What `fill` did, by name of notebook."""

    first: Path  # the copy to start with
    new: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    outdated: list[str] = field(
        default_factory=list
    )  # changed by the learner, and the lesson has changed since

    def lines(self) -> Iterator[str]:
        """Sentences for the learner; none if nothing happened."""
        if self.new:
            yield f"copied to {self.first.parent.name}/: {', '.join(self.new)}"
        if self.updated:
            yield f"brought up to date, as you had not changed them: {', '.join(self.updated)}"
        for name in self.outdated:
            number = name.split("_")[0]
            yield f"{name} has a newer version; yours stays; --fresh {number} puts the new one beside it"


def fill(lessons: Path, work: Path) -> Report:
    """Copy every lesson that `work` lacks, and update the copies that the learner has not changed.

    Raises:
        FileNotFoundError: there are no lessons.
    """
    sources = sorted(lessons.glob("*.ipynb"))
    if not sources:
        raise FileNotFoundError(f"there are no lessons in {lessons}")
    work.mkdir(exist_ok=True)
    manifest = _read_manifest(work)
    report = Report(first=work / sources[0].name)
    for source in sources:
        name, copy = source.name, learner_copy(source.read_bytes())
        target, current = work / name, _hash(copy)
        there = _hash(target.read_bytes()) if target.exists() else None
        state = _state(there, manifest.get(name), current)
        if state in ("new", "updated"):
            _write(target, copy)
        if state in ("new", "updated", "same"):
            manifest[name] = current
        if state in ("new", "updated", "outdated"):
            getattr(report, state).append(name)
    _write_manifest(work, manifest)
    return report


def _state(there: str | None, written: str | None, current: str) -> str:
    """What a copy is, from the hashes of what lies there, was written there, and would be written now."""
    if there is None:
        return "new"
    if there == current:
        return "same"
    if there == written:
        return "updated"  # as it was handed out, and the lesson has changed since
    if written in (None, current):
        return "own"  # the learner's work on this version, or a file that was never ours
    return "outdated"


def fresh(lessons: Path, work: Path, lesson: str) -> Path:
    """Write a new copy of one lesson beside the learner's and return it; an untouched one is that already.

    Raises:
        ValueError: no lesson's file name begins with `lesson`, or several do.
    """
    found = sorted(lessons.glob("*.ipynb"))
    matching = [path for path in found if path.name.startswith(lesson)] if lesson else []
    if len(matching) != 1:
        numbers = ", ".join(path.name.split("_")[0] for path in found)
        raise ValueError(f"there is no single lesson called {lesson!r}: choose one of {numbers}")
    source = matching[0]
    copy = learner_copy(source.read_bytes())
    target, number = work / source.name, 2
    while target.exists():
        if target.read_bytes() == copy:
            return target
        target = work / f"{source.stem}-{number}.ipynb"
        number += 1
    _write(target, copy)
    _write_manifest(
        work, {**_read_manifest(work), source.name: _hash(copy)}
    )  # the newest version has been handed out
    return target


def learner_copy(lesson: bytes) -> bytes:
    """The notebook as a learner gets it: cells tagged `reveal` have no outputs, so nothing is told early.

    It is laid out as Jupyter saves it, so that saving an untouched copy changes nothing.
    """
    notebook = json.loads(lesson)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and REVEAL in cell.get("metadata", {}).get("tags", []):
            cell["outputs"], cell["execution_count"] = [], None
    return (json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_manifest(work: Path) -> dict[str, str]:
    """Hashes of what was written, by name; without a readable manifest every copy counts as the learner's."""
    try:
        manifest = json.loads((work / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write_manifest(work: Path, manifest: dict[str, str]) -> None:
    _write(work / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write in one step, so that an interrupted run leaves the old file or the new one."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)
