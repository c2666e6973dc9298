"""One JSON file for each run: where the figures come from, how they were asked for, and every sample."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kvlab.measure.machine import commit, describe, now, versions

SCHEMA = 1
REQUIRED = (
    *("schema", "bench", "device", "machine", "date", "versions", "commit", "command", "parameters"),
    "rows",
)


@dataclass
class Report:
    """A run while it is taken and after it was read back. Seconds, bytes and FLOPs everywhere.

    device: the model of the processor that computed. parameters: what the run was asked for. rows: one
    dictionary a measured point; timed ones keep all samples under "seconds". notes: sentences a reader
    must know. errors: what failed, while the rest went on.
    """

    bench: str
    device: str
    parameters: dict[str, Any]
    command: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe)
    date: str = field(default_factory=now)
    versions: dict[str, str] = field(default_factory=versions)
    commit: str = field(default_factory=commit)
    schema: int = SCHEMA
    path: Path | None = None  # where `save` writes; not part of the file

    def add(self, **row: Any) -> dict[str, Any]:
        """Add a row, and write the file again if it has a place: a run that is killed keeps its rows."""
        self.rows.append(row)
        self.save()
        return row

    def fail(self, what: str, error: BaseException) -> None:
        """Note a failure and go on."""
        self.errors.append(f"{what}: {' <- '.join(_said(e) for e in chain(error))}")
        if os.environ.get("KVLAB_DEBUG"):
            traceback.print_exception(error)
        self.save()

    def data(self) -> dict[str, Any]:
        """The file's content."""
        names = (*REQUIRED, "notes", "errors")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path | None = None) -> None:
        """Write the file, all or nothing."""
        target = path or self.path
        if target is None:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".bench-", suffix=".json")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_plain(self.data()), file, indent=1, ensure_ascii=False, allow_nan=False)
                file.write("\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_report(path: Path | str) -> Report:
    """A run that was recorded.

    Raises:
        ValueError: no JSON, another schema, or something is missing.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from None
    missing = [name for name in REQUIRED if name not in data] if isinstance(data, dict) else list(REQUIRED)
    if missing:
        raise ValueError(f"{path.name} is no recorded run of kvlab: it lacks {', '.join(missing)}.")
    if data["schema"] != SCHEMA:
        raise ValueError(f"{path.name} has schema {data['schema']}; this version of kvlab reads {SCHEMA}.")
    return Report(**{name: data[name] for name in data if name in Report.__dataclass_fields__}, path=path)


def chain(error: BaseException) -> list[BaseException]:
    """An error and those behind it, the last first."""
    found: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and len(found) < 5:
        found.append(now)
        now = now.__cause__ or now.__context__
    return found


def _said(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {without_paths(first)}"


def shown_command(argv: list[str]) -> str:
    """The command line as a reader may repeat it: folders of this machine are left out."""
    return "python -m kvlab bench " + shlex.join(without_paths(word) for word in argv)


def without_paths(text: str) -> str:
    """Absolute paths cut down to their last part."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])*([^\s/\\:'\"]*)", r"\1", text)


def _plain(value: Any) -> Any:
    """What JSON can hold: no torch types, no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if isinstance(value, str | int | bool | None) else str(value)
