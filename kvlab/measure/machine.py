"""Where figures come from: device, versions, commit, date. Nothing that names a host, a user or a folder."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_SMI = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "max_sm_clock_mhz": "clocks.max.sm",
    "max_memory_clock_mhz": "clocks.max.mem",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def describe() -> dict[str, Any]:
    """CPU, memory, threads and GPU of this machine."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
    }
    if torch.cuda.is_available():
        found["gpu"] = gpu()
    return found


def device_name(device: torch.device | str) -> str:
    """The model of the processor that computes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def gpu() -> dict[str, Any]:
    """Name, memory, multiprocessors, driver and present clocks of the first GPU."""
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
    return found | clocks()


def clocks() -> dict[str, str]:
    """What `nvidia-smi` says of driver, clocks, power limit and temperature; empty where there is none."""
    query = f"--query-gpu={','.join(_SMI.values())}"
    line = _output(["nvidia-smi", "-i", "0", query, "--format=csv,noheader,nounits"])
    values = [value.strip() for value in (line or "").split(",")]
    return dict(zip(_SMI, values, strict=True)) if len(values) == len(_SMI) else {}


def cpu_name() -> str:
    """The CPU's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Bytes of main memory; None where nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        pass
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().total)


def versions() -> dict[str, str]:
    """Python, kvlab, torch, numpy, and what of transformers and triton is installed."""
    from kvlab import __version__

    found = {"python": platform.python_version(), "kvlab": __version__, "torch": torch.__version__}
    for name in ("numpy", "transformers", "triton"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout that kvlab runs from, "+dirty" if tracked files differ from it.

    `KVLAB_COMMIT` says it for a copy without git's own folder; "unknown" where neither does.
    """
    package = Path(__file__).resolve().parents[1]
    top = _output(["git", "-C", str(package), "rev-parse", "--show-toplevel"])
    if top is None or Path(top).resolve() != package.parent:
        return os.environ.get("KVLAB_COMMIT", "unknown")
    name = _output(["git", "-C", str(package), "rev-parse", "HEAD"])
    changes = _output(["git", "-C", str(package), "status", "--porcelain", "--untracked-files=no"])
    return f"{name or 'unknown'}{'+dirty' if changes else ''}"


def provenance() -> dict[str, Any]:
    """Where a record of a training comes from. With more load than threads, its seconds say less."""
    load = [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {
        "date": now(),
        "machine": describe(),
        "load_average": load,  # runnable processes over the last 1, 5 and 15 minutes
        "versions": versions(),
        "commit": commit(),
    }


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _output(command: list[str]) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
