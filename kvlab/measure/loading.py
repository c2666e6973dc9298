"""`bench load`: the first conversion of a model and every later load, each in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kvlab.measure.clock import Timing
from kvlab.measure.report import Report
from kvlab.measure.tables import table
from kvlab.zoo.catalogue import CATALOGUE
from kvlab.zoo.paths import home
from kvlab.zoo.store import gguf_file

# What a fresh process does; `import kvlab` (torch with it) is timed apart.
_SCRIPT = """
import json, sys, time
start = time.perf_counter()
import kvlab
imported = time.perf_counter()
lm = kvlab.load(sys.argv[1], device=sys.argv[2], dtype=sys.argv[3])
lm.tokenizer.encode("The cat is on the mat")
print(json.dumps({"import_seconds": imported - start, "seconds": time.perf_counter() - imported}))
"""


def loading(name: str, device: str, dtype: str, repeats: int, report: Report, first: bool = True) -> None:
    """Add rows for the first load (verifying and converting what was downloaded) and for later ones.

    first: also convert once more, in a temporary folder; the download itself is not counted.
    """
    if first and name in CATALOGUE:
        with tempfile.TemporaryDirectory(prefix="kvlab-bench-") as folder:
            _place(gguf_file(name), Path(folder))
            _row(report, name, "first: verify, convert, load", [_fresh(name, device, dtype, folder)])
    _fresh(name, device, dtype)  # the files are in memory from now on, as on any second day of work
    _row(report, name, "later", [_fresh(name, device, dtype) for _ in range(repeats)])


def _place(source: Path, target_home: Path) -> None:
    """The downloaded file, under another KVLAB_HOME, without a copy where that is possible."""
    target = target_home / source.relative_to(home())
    target.parent.mkdir(parents=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fresh(name: str, device: str, dtype: str, home: str | None = None) -> dict[str, float]:
    """Seconds of importing and of loading, in a new process."""
    env = dict(os.environ) if home is None else {**os.environ, "KVLAB_HOME": home}
    package = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, "-c", _SCRIPT, name, device, dtype]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    if run.returncode:
        last = run.stderr.strip().rpartition("\n")[2] or f"exit code {run.returncode}"
        raise RuntimeError(f"loading {name} in a fresh process failed: {last}")
    return json.loads(run.stdout.strip().rpartition("\n")[2])


def _row(report: Report, name: str, what: str, runs: list[dict[str, float]]) -> None:
    loads = Timing([run["seconds"] for run in runs])
    imports = Timing([run["import_seconds"] for run in runs])
    report.add(
        model=name, what=what, **loads.row(), import_seconds=imports.seconds, import_median=imports.median
    )


def loading_table(report: Report) -> str:
    """The table that is printed last."""
    rows: list[dict[str, Any]] = [
        {
            "model": row["model"],
            "load": row["what"],
            "seconds": row["median"],
            "import kvlab": row["import_median"],
            "runs": len(row["seconds"]),
        }
        for row in report.rows
    ]
    return table(rows)
