"""`kvlab lab`: JupyterLab on the learner's own copies of the lessons."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from kvlab import copies

PORT = 8888
MODEL = "smollm2-135m"  # the one that the lessons open with


def project_root() -> Path:
    """The folder that holds notebooks/, results/ and this package.

    Raises:
        FileNotFoundError: kvlab was installed without the project around it.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "notebooks").is_dir():
        raise FileNotFoundError(
            "the lessons are not beside the package: clone the project and run `make lab` there"
        )
    return root


def has_display(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether a browser window can be opened from here."""
    if platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in environ
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def require_free(host: str, port: int) -> None:
    """Raise ValueError if a server cannot listen on this address: better said now than after a log."""
    if not 0 < port < 65536:
        raise ValueError(f"--port {port}: a port is a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if (
                os.name == "posix"
            ):  # a port that was closed a moment ago is free; on Windows this would mean theft
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host} port {port} ({error.strerror}): "
            "choose another with --port (make lab PORT=…)"
        ) from error


def command(root: Path, notebook: Path, host: str, port: int | None, browser: bool) -> list[str]:
    """The command that starts JupyterLab in the project with `notebook` open.

    The server shows the whole project (the lessons say where to read on), guarded by Jupyter's own token.
    Without a chosen `port` Jupyter takes the first free one from 8888.
    """
    options = [
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(root).as_posix()}",
        f"--ServerApp.ip={host}",
        f"--ServerApp.port={port or PORT}",
        f"--ServerApp.port_retries={0 if port else 50}",
    ]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container; Jupyter refuses root unless it is told
        options.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *options]


def environment(root: Path) -> dict[str, str]:
    """This process's environment for JupyterLab and its kernels.

    Lessons also find kvlab where it is not installed, and keep the learner's answers in work/. Our defaults
    for JupyterLab (it asks nothing and looks up nothing in the network) give way to the user's own settings.
    """
    return {
        **os.environ,
        "PYTHONPATH": _first(str(root), "PYTHONPATH"),
        "JUPYTER_CONFIG_PATH": _first(str(Path(__file__).with_name("jupyter")), "JUPYTER_CONFIG_PATH"),
        "KVLAB_WORK": str(root / "work"),
    }


def _first(path: str, variable: str) -> str:
    """The value of a list of paths with `path` in front."""
    return os.pathsep.join([path, *filter(None, [os.environ.get(variable)])])


def prepare(root: Path, fresh: str | None = None) -> Path:
    """Bring work/ up to date, say what happened, and return the notebook to open.

    Raises:
        ValueError: there is no lesson called `fresh`.
    """
    report = copies.fill(root / "notebooks", root / "work")
    for line in report.lines():
        print(f"kvlab: {line}")
    if fresh is not None:
        return copies.fresh(root / "notebooks", root / "work", fresh)
    return report.first


def fetch_first_model() -> None:
    """Have the weights that the lessons open with; without them the course opens too, and says what lacks."""
    from kvlab import zoo
    from kvlab.zoo.errors import ModelError

    try:
        zoo.fetch(MODEL)
    except ModelError as error:
        print(
            f"kvlab: {error}\nkvlab: JupyterLab opens all the same; `kvlab fetch {MODEL}` tries again",
            file=sys.stderr,
        )


def start(argv: list[str], env: dict[str, str]) -> int:
    """Become JupyterLab (so that signals reach it), or on Windows run it and wait."""
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(argv[0], argv, env)
    try:
        return subprocess.call(argv, env=env)
    except KeyboardInterrupt:  # Ctrl-C reaches JupyterLab too, which has said goodbye by itself
        return 0


def main(argv: list[str]) -> int:
    """`kvlab lab`: see --help."""
    parser = argparse.ArgumentParser(
        prog="kvlab lab",
        description="Open the course in JupyterLab, on your own copies of the lessons in work/. What you "
        "changed there is never overwritten; a copy you did not touch follows the lesson it came from.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, help=f"port to listen on (default: the first free one from {PORT})"
    )
    parser.add_argument(
        "--fresh", metavar="03", help="make a new copy of this lesson beside yours, and open it"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no window")
    args = parser.parse_args(argv)
    root = project_root()
    if args.port is not None:
        require_free(args.host, args.port)
    notebook = prepare(root, args.fresh)
    import jupyterlab  # noqa: F401  (said here, in one line, if it is not installed)

    fetch_first_model()
    browser = has_display() and not args.no_browser
    if not browser:
        print(
            "kvlab: no window is opened from here; open the last address below in a browser. Ctrl-C ends it."
        )
    return start(command(root, notebook, args.host, args.port, browser), environment(root))
