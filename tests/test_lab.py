"""`kvlab lab`: what it starts, where it listens, and what it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from kvlab import cli, lab
from kvlab.zoo.errors import ModelError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with two lessons, in the place of this one."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    for name in ("00_start.ipynb", "01_attention.ipynb"):
        nbformat.write(nbformat.v4.new_notebook(), root / "notebooks" / name)
    monkeypatch.setattr(lab, "project_root", lambda: root)
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What would have been started; nothing is, and no model is fetched."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(lab, "start", lambda argv, env: calls.append((argv, env)) or 0)
    monkeypatch.setattr(lab, "fetch_first_model", lambda: None)
    return calls


def test_the_project_root_holds_the_lessons() -> None:
    assert (lab.project_root() / "pyproject.toml").exists()


def test_it_opens_lesson_00_on_the_learners_copy(project: Path, started: list) -> None:
    assert cli.main(["lab", "--no-browser"]) == 0
    [(argv, env)] = started
    assert argv[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--LabApp.default_url=/lab/tree/work/00_start.ipynb" in argv
    assert "--ServerApp.ip=127.0.0.1" in argv and "--no-browser" in argv
    assert not any("token" in option for option in argv), "the token is Jupyter's own"
    assert env["KVLAB_WORK"] == str(project / "work")
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(project)
    assert (project / "work" / "01_attention.ipynb").exists()


def test_fresh_opens_the_new_copy(project: Path, started: list, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["lab"])
    (project / "work" / "01_attention.ipynb").write_text("mine")
    assert cli.main(["lab", "--fresh", "01"]) == 0
    assert "--LabApp.default_url=/lab/tree/work/01_attention-2.ipynb" in started[-1][0]
    assert cli.main(["lab", "--fresh", "17"]) == cli.FAILED
    assert "choose one of 00, 01" in capsys.readouterr().err


def test_a_chosen_port_is_taken_or_refused(
    project: Path, started: list, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["lab", "--port", str(port)]) == cli.FAILED
        assert f"port {port}" in (said := capsys.readouterr().err) and "--port" in said
        assert started == []
    assert cli.main(["lab", "--port", str(port)]) == 0
    assert f"--ServerApp.port={port}" in started[0][0] and "--ServerApp.port_retries=0" in started[0][0]


@pytest.mark.parametrize("port", ["0", "-1", "70000"])
def test_a_port_out_of_range_is_named(
    project: Path, started: list, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lab", f"--port={port}"]) == cli.FAILED
    assert "from 1 to 65535" in capsys.readouterr().err


def test_an_unknown_host_is_named(project: Path, started: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["lab", "--host", "203.0.113.7", "--port", "8890"]) == cli.FAILED
    )  # an address no machine here has
    assert "cannot listen on 203.0.113.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "linux", False),
        ({}, "darwin", True),
        ({}, "win32", True),
        ({"SSH_CONNECTION": "…"}, "darwin", False),
    ],
)
def test_a_window_is_opened_only_where_one_can_be(
    environ: dict[str, str], platform: str, expected: bool
) -> None:
    assert lab.has_display(environ, platform) is expected


def test_without_weights_the_course_opens_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(name: str) -> None:
        raise ModelError("no network and nothing cached")

    monkeypatch.setattr("kvlab.zoo.fetch", no_network)
    lab.fetch_first_model()
    err = capsys.readouterr().err
    assert "no network" in err and "kvlab fetch smollm2-135m" in err


@pytest.mark.alone
def test_a_real_server_asks_for_its_token_and_opens_the_lesson(project: Path, tmp_path: Path) -> None:
    """Starts JupyterLab as `kvlab lab` does, on loopback, and reads the address that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    notebook = lab.prepare(project)
    argv = lab.command(project, notebook, "127.0.0.1", port, browser=False)
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(argv, env={**lab.environment(project), **folders}, stdout=out, stderr=out)
    try:
        address = wait_for_address(log, server)
        assert address.startswith(f"http://127.0.0.1:{port}/lab/tree/work/00_start.ipynb?token=")
        token = address.rpartition("=")[2]
        api = f"http://127.0.0.1:{port}/api/contents/work"
        assert status_without_token(api, server) == 403
        with urllib.request.urlopen(f"{api}?token={token}", timeout=10) as reply:
            names = {entry["name"] for entry in json.load(reply)["content"]}
        assert {"00_start.ipynb", "01_attention.ipynb"} <= names
    finally:
        server.terminate()
        server.wait(timeout=20)


def status_without_token(address: str, server: subprocess.Popen[bytes], seconds: float = 60) -> int:
    """The HTTP status of the first answer; the server prints its address a moment before it listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server never listened")


def wait_for_address(log: Path, server: subprocess.Popen[bytes], seconds: float = 60) -> str:
    """The address on loopback that the server prints when it listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        for word in log.read_text(errors="replace").split():
            if word.startswith("http://127.0.0.1") and "?token=" in word:
                return word
        time.sleep(0.2)
    raise AssertionError(f"the server printed no address:\n{log.read_text(errors='replace')}")
