"""House rules over every committed file: nothing of one machine, no package index, no broken link."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 1_000_000
PICTURES = {".png", ".gif", ".jpg", ".webp", ".ico"}
WEIGHTS = {".safetensors": 5_000_000}  # a model that comes with the package, and how large it may be

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/\w")
# Joined here so that this file does not hold what it looks for.
INDEX_HOST = re.compile(
    "|".join(map(re.escape, ("pypi" + ".org", "files.python" + "hosted", "download.py" + "torch")))
)
WRITES_NOTEBOOKS = re.compile(r"nbformat\.write\(|nbf\.write\(|jupytext")


def committed() -> list[Path]:
    """The files that git tracks."""
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("this is no git checkout")
    return [path for line in run.stdout.splitlines() if (path := ROOT / line).is_file()]


def texts() -> dict[str, str]:
    """The committed text files, by path from the root."""
    readable = [path for path in committed() if path.suffix not in {*PICTURES, *WEIGHTS}]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in readable}


def test_no_path_of_somebodys_machine() -> None:
    found = {name: hit[0] for name, text in texts().items() if (hit := MACHINE_PATH.findall(text))}
    assert not found


def test_no_package_index_is_named() -> None:
    found = {name: hit[0] for name, text in texts().items() if (hit := INDEX_HOST.findall(text))}
    assert not found, "pip knows where packages are; the project names no server"


def test_notebooks_are_written_by_hand() -> None:
    scripts = {
        name: text for name, text in texts().items() if name.endswith(".py") and not name.startswith("tests/")
    }
    assert not [name for name, text in scripts.items() if WRITES_NOTEBOOKS.search(text)]


def test_no_file_is_too_big_to_read_on_a_code_host() -> None:
    sizes = {path: path.stat().st_size for path in committed()}
    assert not {p.name: size for p, size in sizes.items() if size > WEIGHTS.get(p.suffix, MAX_BYTES)}


def test_every_relative_link_in_the_documentation_leads_somewhere() -> None:
    broken = []
    for name, text in texts().items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"", prose):
            target = (link[0] or link[1]).partition("#")[0]
            if target and "://" not in target and not (ROOT / name).parent.joinpath(target).exists():
                broken.append(f"{name}: {target}")
    assert not broken
