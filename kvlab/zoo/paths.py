"""Where models are kept: `KVLAB_HOME`, else the platform's cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder that kvlab writes to (it may not exist yet)."""
    if chosen := os.environ.get("KVLAB_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kvlab"


def model_folder(name: str) -> Path:
    """The folder of one catalogued model."""
    return home() / "models" / name
