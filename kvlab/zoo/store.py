"""The models on this machine: fetched once, converted once, then only mapped into memory."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kvlab.zoo.catalogue import CATALOGUE, Entry
from kvlab.zoo.convert import read_weights
from kvlab.zoo.download import disk_errors, download, remove_stale, require_space, sha256_of
from kvlab.zoo.errors import ModelError, need
from kvlab.zoo.gguf_header import read_header
from kvlab.zoo.gguf_tokenizer import build_tokenizer
from kvlab.zoo.paths import model_folder
from kvlab.zoo.shapes import count_weights

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
_FORMAT = "1"  # raise it when the conversion changes: older files are then made anew


def fetch(name: str, progress: bool = True) -> Path:
    """Have a catalogued model ready on this machine; nothing is done if it already is.

    Returns:
        The folder with its float32 weights and its tokenizer, and in `gguf/` the file they were made
        from and its licence.

    Raises:
        ModelError: unknown name, no network, a damaged or different file, a full or read-only disk.
    """
    entry = catalogued(name)
    folder = model_folder(name)
    if not _converted(entry, folder):
        for package in ("gguf", "safetensors.torch", "tokenizers", "tqdm.auto"):
            need(package)  # to be found missing before the download, not after it
        _convert(entry, gguf_file(name, progress), folder, progress)
    return folder


def gguf_file(name: str, progress: bool = True) -> Path:
    """The verified GGUF file of a catalogued model, downloaded if it is not here yet.

    Raises:
        ModelError: as for `fetch`.
    """
    entry = catalogued(name)
    # A folder of its own: other libraries, pointed at it, then see this file and nothing of ours.
    path = model_folder(name) / "gguf" / entry.file
    with disk_errors(path.parent):
        if path.exists() and sha256_of(path) == entry.sha256:
            return path
    return download(entry, path.parent, progress)


def catalogued(name: str) -> Entry:
    """The catalogue's entry of `name`.

    Raises:
        ModelError: there is none; the nearest name is suggested.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise ModelError(f"There is no model {name!r} to fetch{nearest(name, CATALOGUE)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what was probably meant, or all there is."""
    choices = sorted(known)
    begun = [choice for choice in choices if name and choice.startswith(name.lower())]
    close = begun or difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(choices)}."


def _converted(entry: Entry, folder: Path) -> bool:
    """Whether usable weights and tokenizer, made from the pinned file by this version, are here."""
    weights = folder / WEIGHTS
    if not (weights.exists() and (folder / TOKENIZER).exists()):
        return False
    safetensors = need("safetensors")
    try:
        with safetensors.safe_open(weights, framework="numpy") as file:
            return file.metadata() == _marks(entry)
    except (safetensors.SafetensorError, OSError):  # cut short or overwritten: make it anew
        return False


def _marks(entry: Entry) -> dict[str, str]:
    """What a converted file says about its origin."""
    return {"kvlab_format": _FORMAT, "source_sha256": entry.sha256}


def _convert(entry: Entry, source: Path, folder: Path, progress: bool) -> None:
    """Write tokenizer and weights; the weights last, because they say that all is there."""
    save_file = need("safetensors.torch").save_file
    header = read_header(source)
    with disk_errors(folder):
        remove_stale(folder)
        require_space(folder, 4 * count_weights(entry.config))
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            tokenizer, weights = Path(temporary) / TOKENIZER, Path(temporary) / WEIGHTS
            tokenizer.write_text(build_tokenizer(header.metadata).to_str(), encoding="utf-8")
            save_file(read_weights(source, header, entry.config, progress), weights, metadata=_marks(entry))
            weights.chmod(tokenizer.stat().st_mode)  # safetensors lets nobody but the owner read
            _replace(tokenizer, folder / TOKENIZER)
            _replace(weights, folder / WEIGHTS)


def _replace(new: Path, target: Path) -> None:
    """Put `new` in place of `target` in one step, so that a reader sees all of it or none."""
    try:
        os.replace(new, target)
    except PermissionError:  # Windows, while another process, which was faster, has its equal copy mapped
        if not target.exists():
            raise
