"""How much of a process really lies in main memory."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path


def resident_bytes() -> int | None:
    """Bytes that this process holds in main memory, without files that are mapped; None where nobody says.

    On Linux that is RssAnon: weights mapped from a file are not in it. Elsewhere psutil's figure, which
    counts them. Memory that was freed and not yet given back is given back first, where the C library can.
    """
    if sys.platform == "linux":
        trim()
        return _status("RssAnon")
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int | None:
    """The most that this process ever held (Linux: VmHWM, mapped files included); None elsewhere."""
    return _status("VmHWM") if sys.platform == "linux" else None


def trim() -> bool:
    """Give free memory back to the system; whether the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        return True
    except (OSError, AttributeError, TypeError):
        return False


def _status(name: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024
