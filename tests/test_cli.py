"""The command line: what it lists, what it returns, and that errors are sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvlab import cli
from kvlab.zoo import cli as fetching
from kvlab.zoo.catalogue import CATALOGUE
from kvlab.zoo.errors import ModelError

ROOT = Path(__file__).resolve().parent.parent


def kvlab(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    import os

    command = [sys.executable, "-m", "kvlab", *argv]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """A subcommand `try` that does what a test says."""

    def register(function) -> None:
        monkeypatch.setitem(cli.COMMANDS, "try", ("made.up:main", "a test's own"))
        monkeypatch.setattr(cli, "find", lambda name: function)

    return register


def test_help_shows_commands_examples_and_exit_codes() -> None:
    run = kvlab("--help")
    assert run.returncode == 0 and run.stderr == ""
    for name in cli.COMMANDS:
        assert f"\n  {name} " in run.stdout
    assert "examples:" in run.stdout and "exit codes:" in run.stdout


def test_without_arguments_usage_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == "" and "commands:" in err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_registered_command_can_be_imported_and_has_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"kvlab {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import kvlab

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"kvlab {kvlab.__version__}, torch ")


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ftch"]) == cli.USAGE
    assert capsys.readouterr().err == "kvlab: there is no command 'ftch': did you mean fetch?\n"
    assert cli.main(["zzz"]) == cli.USAGE
    assert "kvlab --help" in capsys.readouterr().err


def test_wrong_options_are_usage_errors() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fetch", "--no-such-option"])
    assert stop.value.code == cli.USAGE


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelError("the weights of x are damaged"), "kvlab: the weights of x are damaged\n"),
        (ValueError("budget must be at least 1"), "kvlab: budget must be at least 1\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.json"),
            "kvlab: a.json: No such file or directory\n",
        ),
        (OSError(28, "No space left on device"), "kvlab: No space left on device\n"),
        (FileNotFoundError("there are no lessons"), "kvlab: there are no lessons\n"),
        (
            ZeroDivisionError("division by zero"),
            "kvlab: ZeroDivisionError: division by zero (KVLAB_DEBUG=1 shows where)\n",
        ),
        (ValueError(), "kvlab: ValueError:  (KVLAB_DEBUG=1 shows where)\n"),
    ],
)
def test_an_error_is_one_line(
    error: Exception, line: str, command, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    command(fail)
    assert cli.main(["try"]) == cli.FAILED
    assert capsys.readouterr().err == line


def test_a_missing_library_is_named_with_the_remedy(command, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        import no_such_library  # noqa: F401

        return 0

    command(fail)
    assert cli.main(["try"]) == cli.FAILED
    err = capsys.readouterr().err
    assert "no_such_library is not installed" in err and "pip install" in err


def test_debug_shows_the_traceback(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise ValueError("where was it?")

    command(fail)
    monkeypatch.setenv("KVLAB_DEBUG", "1")
    with pytest.raises(ValueError, match="where was it"):
        cli.main(["try"])


def test_arguments_and_exit_codes_pass_through(command) -> None:
    seen: list[list[str]] = []

    def remember(argv: list[str]) -> int | None:
        seen.append(argv)
        return {"a": None, "b": 0, "c": 1}[argv[0]]

    command(remember)
    assert [cli.main(["try", letter, "--flag"]) for letter in "abc"] == [0, 0, 1]
    assert seen[0] == ["a", "--flag"]


def test_ctrl_c_is_no_traceback(command, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["try"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "kvlab: stopped\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    script = f"{sys.executable} -m kvlab fetch --list | true"
    run = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


def test_fetch_lists_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    lines = fetching.listing().splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    for name, entry in CATALOGUE.items():
        line = next(line for line in lines if line.startswith(name))
        assert entry.licence in line and line.endswith("no")
    assert str(tmp_path) in lines[-1]


def test_fetch_checks_every_name_before_the_first_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(fetching, "fetch", lambda name: fetched.append(name) or name)
    assert cli.main(["fetch", "smollm2-135m", "gema3-270m"]) == cli.FAILED
    assert fetched == [] and "gemma3-270m" in capsys.readouterr().err
    assert cli.main(["fetch", "smollm2-135m", "gemma3-270m"]) == cli.OK
    assert fetched == ["smollm2-135m", "gemma3-270m"]


def test_fetch_wants_a_name() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fetch"])
    assert stop.value.code == cli.USAGE
