"""What a learner said, kept for later lessons: one small JSON file each, written atomically.

The folder is `.kvlab/` inside the learner's work folder: `KVLAB_WORK` where it is set (`make lab` sets
it), else the current folder if it is called `work`. Elsewhere (the notebooks run in place, tests) answers
live as long as the kernel, so that running a committed notebook always gives the same outputs.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

_kept: dict[str, dict[str, Any]] = {}
_ID = re.compile(r"\d\d\.[a-z0-9_-]+")


def check_id(key: str) -> None:
    """Raise ValueError unless `key` looks like "03.speed": the lesson's two digits, a dot, a name."""
    if not _ID.fullmatch(key):
        raise ValueError(f"{key!r} is no id: write two digits, a dot and a lower-case name, like '03.speed'")


def work_folder() -> Path | None:
    """The learner's work folder, or None when the notebook runs elsewhere."""
    named = os.environ.get("KVLAB_WORK")
    if named:
        return Path(named)
    here = Path.cwd()
    return here if here.name == "work" else None


def _file(key: str) -> Path | None:
    folder = work_folder()
    return None if folder is None else folder / ".kvlab" / f"{key}.json"


def keep(key: str, entry: dict[str, Any]) -> bool:
    """Remember `entry` under an id. Returns whether it is also on disk, for other lessons and kernels."""
    check_id(key)
    _kept[key] = entry
    path = _file(key)
    if path is None:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entry, file, ensure_ascii=False)
        os.replace(temporary, path)
    except OSError:  # a full or read-only disk must not stop a lesson
        return False
    return True


def recall(key: str) -> dict[str, Any] | None:
    """What was kept under an id, in this kernel or on disk; None if nothing (or if the file is damaged)."""
    check_id(key)
    path = _file(key)
    if path is not None and path.is_file():
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entry = None
        if isinstance(entry, dict):
            return entry
    return _kept.get(key)


def recall_all() -> dict[str, dict[str, Any]]:
    """Everything kept so far, by id in order."""
    keys = set(_kept)
    folder = work_folder()
    if folder is not None:
        keys |= {p.stem for p in (folder / ".kvlab").glob("*.json") if _ID.fullmatch(p.stem)}
    found = {key: recall(key) for key in sorted(keys)}
    return {key: entry for key, entry in found.items() if entry is not None}


def forget(prefix: str = "") -> int:
    """Drop what is kept under ids that start with `prefix` ("03." for one lesson). Returns how many."""
    keys = [key for key in recall_all() if key.startswith(prefix)]
    for key in keys:
        _kept.pop(key, None)
        path = _file(key)
        if path is not None:
            path.unlink(missing_ok=True)
    return len(keys)
