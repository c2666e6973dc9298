"""Recorded runs from `results/`: what was measured, on which device, when, with which versions."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tables import card, inline


@dataclass(frozen=True)
class Recorded:
    """One recorded run. `run["key"]` reads the JSON, `.caption` says where the figures come from."""

    name: str
    data: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        if key not in self.data:
            raise KeyError(f"results/{self.name}.json has no {key!r}; it has {sorted(self.data)}")
        return self.data[key]

    @property
    def caption(self) -> str:
        """Device, date, versions and commit in one line; "unknown" for what the file does not say."""
        device = _first(self.data, "gpu", "cpu", "device_name", "device")
        date = str(_first(self.data, "date", "time", "started"))[:10]
        versions = self.data.get("versions") or {}
        stack = ", ".join(f"{n} {versions[n]}" for n in ("torch", "transformers") if n in versions)
        commit = str(_first(self.data, "commit"))[:10]
        return f"Recorded on {device}, {date}, {stack or 'versions unknown'}, commit {commit}."

    def __bool__(self) -> bool:
        return True

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


def _first(data: dict[str, Any], *keys: str) -> Any:
    found: Any = next((data[k] for k in keys if data.get(k)), "unknown")
    return found.get("name", "unknown") if isinstance(found, dict) else found


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


def recorded(name: str, gpu: bool = False) -> Recorded | NotMeasured:
    """The run `results/<name>.json`.

    With `gpu=True` a run that does not exist gives `NotMeasured` ("not yet measured on a GPU"), so that a
    lesson can show the rest; otherwise FileNotFoundError lists the runs there are. ValueError: no valid JSON.
    """
    path = results_folder() / f"{name}.json"
    if not path.is_file():
        if gpu:
            return NotMeasured(name, f"{name}: not yet measured on a GPU.")
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no recorded run {name!r} in results/; there are: {there}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results/{path.name} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"results/{path.name} must hold one JSON object")
    return Recorded(name, data)
