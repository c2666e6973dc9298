"""A real JupyterLab on loopback, and a page of it that a test drives: run cells, move a control, look."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from kvlab.lab import environment

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 1000  # playwright counts in milliseconds

READY = """async () => {
    const app = window.jupyterapp;
    const panel = app && app.shell.currentWidget;
    if (!panel || !panel.content || !panel.content.widgets) return false;
    await panel.context.ready;
    await panel.sessionContext.ready;
    const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel;
    return Boolean(kernel) && kernel.status === 'idle';
}"""

RUN = """async index => {
    const panel = window.jupyterapp.shell.currentWidget;
    panel.content.deselectAll();
    panel.content.activeCellIndex = index;
    await window.jupyterapp.commands.execute('notebook:run-cell');
    const outputs = panel.content.widgets[index].outputArea.model.toJSON();
    const errors = outputs.filter(output => output.output_type === 'error');
    return errors.map(output => `${output.ename}: ${output.evalue}`);
}"""

# What a cell shows, without the controls themselves: a slider's own readout moves even if nothing listens.
SHOWN = """async cell => {
    const seen = element => element.getClientRects().length > 0;
    const digest = async bytes => {
        const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('');
    };
    const shown = [];
    for (const image of Array.from(cell.querySelectorAll('.jp-OutputArea img')).filter(seen))
        shown.push('image ' + await digest(await (await fetch(image.src)).arrayBuffer()));
    for (const canvas of Array.from(cell.querySelectorAll('.jp-OutputArea canvas')).filter(seen))
        shown.push('canvas ' + canvas.toDataURL());
    for (const html of Array.from(cell.querySelectorAll('.jp-OutputArea .widget-html-content')).filter(seen))
        shown.push('html ' + html.innerHTML);
    return shown;
}"""


def find_browser() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def server(folder: Path, private: Path) -> Iterator[str]:
    """JupyterLab over `folder`, with settings, trust and run-time files of its own in `private`; its address.

    The address carries a token (`?token=…`). The project is importable in kernels, installed or not.
    """
    port, token = _free_port(), secrets.token_hex(16)
    tracker = private / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells that are out of view are not in the page
    env = environment(ROOT)
    del env["KVLAB_WORK"]  # no learner's answers
    for kind in ("CONFIG", "DATA", "RUNTIME"):
        env[f"JUPYTER_{kind}_DIR"] = str(private / kind)
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(private / "settings"), "IPYTHONDIR": str(private / "ipython")}
    env["JUPYTERLAB_WORKSPACES_DIR"] = str(private / "workspaces")
    options = ["--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    options += ["--LabApp.expose_app_in_browser=True"]
    log = private / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=env, stdout=out, stderr=out
        )
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/api?token={token}", process, log)
        yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?token={token}&reset"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class LessonPage:
    """One notebook, open in a browser."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page, self.name = page, name
        page.goto(address.format(name=name))
        deadline = time.monotonic() + 120
        while not page.evaluate(READY):
            assert time.monotonic() < deadline, f"{name} has no idle kernel after two minutes"
            time.sleep(0.2)

    def cell(self, index: int) -> Locator:
        """The cell with this index in the file (Markdown cells count)."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def run(self, indices: Sequence[int], allowed_to_fail: Sequence[int] = ()) -> None:
        """Run these cells in order and wait for each; an error that is not allowed fails the test."""
        for index in indices:
            errors = self.page.evaluate(RUN, index)
            assert not errors or index in allowed_to_fail, f"{self.name}, cell {index + 1}: {errors}"

    def shown(self, index: int) -> list[str]:
        """What a cell shows beside its controls: digests of pictures, and the HTML of widgets."""
        return self.cell(index).evaluate(SHOWN)

    def drive(self, index: int, step: str, timeout: float = 20) -> None:
        """Move one control of a cell and wait until the cell shows something else.

        `step` is a kind of control, and after a colon which one: "slider", "slider:layer", "button:sink",
        "dropdown", "checkbox:cat". Without a colon it is the first of its kind.
        """
        move = {"slider": _slide, "button": _press, "dropdown": _choose, "checkbox": _tick}
        kind, _, label = step.partition(":")
        assert kind in move, f"{self.name}: {step!r} is none of {', '.join(move)}"
        before = self._settled(index)
        move[kind](self.cell(index).locator(".jp-OutputArea"), label)
        deadline = time.monotonic() + timeout
        while self.shown(index) == before:
            assert time.monotonic() < deadline, (
                f"{self.name}, cell {index + 1}: {step} moved and nothing changed"
            )
            time.sleep(0.05)

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()

    def _settled(self, index: int, timeout: float = 20) -> list[str]:
        """What a cell shows once it shows something and no longer changes by itself."""
        deadline, last = time.monotonic() + timeout, []
        while not last or last != self.shown(index):
            assert time.monotonic() < deadline, f"{self.name}, cell {index + 1} shows nothing that stays"
            last = self.shown(index)
            time.sleep(0.3)
        return last


def _one(outputs: Locator, kind: str, label: str, inner: str) -> Locator:
    """A control inside the outputs: the first of its kind, or the one whose description is `label`."""
    widgets = outputs.locator(kind)
    if label:
        widgets = widgets.filter(
            has=outputs.page.locator(".widget-label, .widget-label-basic", has_text=label)
        )
    return widgets.locator(inner).first


def _slide(outputs: Locator, label: str) -> None:
    handle = _one(outputs, ".widget-slider", label, ".noUi-handle")
    handle.focus(timeout=20 * SECONDS)
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.press("ArrowLeft" if at_end else "ArrowRight")


def _press(outputs: Locator, label: str) -> None:
    outputs.get_by_role("button", name=label, exact=True).first.click(timeout=20 * SECONDS)


def _choose(outputs: Locator, label: str) -> None:
    select = _one(outputs, ".widget-dropdown", label, "select")
    count = select.locator("option").count()
    select.select_option(index=(int(select.evaluate("select => select.selectedIndex")) + 1) % count)


def _tick(outputs: Locator, label: str) -> None:
    _one(outputs, ".widget-checkbox", label, "input").click(timeout=20 * SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(
    address: str, process: subprocess.Popen[Any], log: Path, seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text(errors='replace')[-4000:]}")
