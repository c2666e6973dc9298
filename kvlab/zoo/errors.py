"""The one exception of the zoo: its message says what was wrong and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class ModelError(RuntimeError):
    """A model cannot be had or cannot be used; the message is for the person who asked for it."""


def need(package: str) -> ModuleType:
    """Import a package that `import kvlab` does without.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"The package {package.split('.')[0]!r} is not installed; "
            f"run `python -m pip install {package.split('.')[0]}` and try again."
        ) from error
