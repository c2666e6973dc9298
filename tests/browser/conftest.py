"""A browser, a JupyterLab and pages of it; where there is no browser, a loud word about what did not run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_page import BROWSERS, ROOT, LessonPage, find_browser, server
from playwright.sync_api import Browser, Route, sync_playwright

MISSING = (
    "no Chromium was found ({}), so no lesson was opened in a browser. Install it and run `make browser`: "
    "sudo apt-get install chromium"
).format(", ".join(BROWSERS))
SCREENSHOTS = ROOT / "build" / "screenshots"
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_not_run: list[str] = []


def in_ci() -> bool:
    """Whether a missing browser is a failure rather than a skip."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = find_browser()
    if path is None:
        _not_run.append(MISSING)
        (pytest.fail if in_ci() else pytest.skip)(MISSING)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root, as in a container.
        started = playwright.chromium.launch(executable_path=path, args=FLAGS, chromium_sandbox=not as_root)
        yield started
        started.close()


@pytest.fixture(scope="session")
def jupyter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that JupyterLab shows; tests put their notebooks there."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def address(
    browser: Browser, jupyter_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a running JupyterLab, with `{name}` where a notebook's name goes."""
    with server(jupyter_folder, tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture
def open_lesson(
    browser: Browser, address: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], LessonPage]]:
    """Opens a notebook by name. Only loopback is reachable; a failing test leaves a screenshot in build/."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    context.route(
        lambda url: "://127.0.0.1:" not in url and not url.startswith(("blob:", "data:")), Route.abort
    )
    pages: list[LessonPage] = []

    def open_one(name: str) -> LessonPage:
        pages.append(LessonPage(context.new_page(), address, name))
        return pages[-1]

    failed_before = request.session.testsfailed
    yield open_one
    for opened in pages:
        if request.session.testsfailed > failed_before:
            opened.page.screenshot(path=SCREENSHOTS / f"{Path(opened.name).stem}.png")
        opened.close()
    context.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in red, at the end of the run, that the browser tests did not run."""
    for reason in _not_run[:1]:
        terminalreporter.section("BROWSER TESTS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(reason, red=True)
