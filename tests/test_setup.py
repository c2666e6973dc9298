"""Set-up: one list of dependencies, the lock that pins it, and the script that installs both."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import install

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, list[Requirement]]:
    """The lines of constraints.txt, by name of package."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def dependencies() -> list[Requirement]:
    """Every dependency that pyproject.toml lists, but for the project's own extras."""
    extras = PROJECT["optional-dependencies"].values()
    listed = [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]
    return [requirement for requirement in map(Requirement, listed) if requirement.name != "kvlab"]


# One list, three files


def test_every_line_of_the_lock_is_an_exact_pin() -> None:
    for name, pins in locked().items():
        for pin in pins:
            assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), (
                f"{name} is not pinned to one version: {pin}"
            )
            assert pin.url is None, f"{name} is pinned to an address"


@pytest.mark.parametrize("dependency", dependencies(), ids=lambda requirement: requirement.name)
def test_the_lock_pins_every_dependency_to_a_version_that_is_allowed(dependency: Requirement) -> None:
    pins = locked().get(canonicalize_name(dependency.name), [])
    assert pins, f"{dependency.name} is in pyproject.toml and not in constraints.txt: make lock"
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        assert dependency.specifier.contains(version), f"{dependency} does not allow the pinned {version}"


def test_the_lock_is_complete() -> None:
    """Whatever this project's dependencies depend on here is pinned too."""
    pins, waiting, seen = locked(), dependencies(), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is installed for kvlab and not in constraints.txt: make lock"
        if (name, extras := frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, extras))
        for line in metadata.requires(name) or []:
            inner = Requirement(line)
            if inner.marker is None or any(
                inner.marker.evaluate({"extra": extra}) for extra in extras or {""}
            ):
                waiting.append(inner)
    assert len(seen) > 50, "the walk did not reach the dependencies' own dependencies"


def test_what_the_user_asked_for_is_in_one_of_the_extras_that_make_lab_installs() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for extra in ("lab", "test"):
        names |= {
            canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]
        }
    assert {"jupyterlab", "torch", "numpy", "matplotlib", "ipywidgets", "nbval"} <= names


def test_importing_kvlab_needs_torch_and_numpy_alone() -> None:
    script = (
        "import sys, torch, numpy; before = set(sys.modules); import kvlab;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    installed = {canonicalize_name(name) for name in metadata.packages_distributions()}
    foreign = {canonicalize_name(name) for name in run.stdout.split()} & installed - {
        "kvlab",
        "torch",
        "numpy",
    }
    heavy = {canonicalize_name(r.name) for r in dependencies()} - {"torch", "numpy"}
    assert not foreign & heavy, f"import kvlab also imports {sorted(foreign & heavy)}"


def test_conda_installs_this_project_by_pip_and_names_no_versions_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [by_pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [re.split(r"[ =<>]", entry)[0] for entry in plain] == ["python", "pip", "git", "make"]
    assert by_pip == ["-c constraints.txt", "-e .[lab]"]
    python = next(entry for entry in plain if entry.startswith("python"))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f">={lowest}" in python


def test_the_lock_fits_this_environment_where_ci_made_it() -> None:
    """`make test` installs by the lock, so what runs there is what the lock says."""
    stamp = Path(sys.prefix) / install.STAMP
    if not stamp.exists():
        pytest.skip("this environment was not made by tools/install.py")
    for name, pins in locked().items():
        for pin in pins:
            if pin.marker and not pin.marker.evaluate():
                continue
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # belongs to another build of torch, or to an extra that is not installed
            assert pin.specifier.contains(version), f"{name} {version} is installed, the lock says {pin}"


# The script that installs


def script(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "install.py"), *argv]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)


def test_an_old_python_can_read_the_script_and_is_told_what_it_lacks() -> None:
    ast.parse((ROOT / "tools" / "install.py").read_text(), feature_version=(3, 6))
    with pytest.raises(
        install.CannotInstall, match=r"needs Python 3\.11 or newer, and this is 3\.10.*PYTHON="
    ):
        install.check_python((3, 10, 4))
    install.check_python((3, 11, 0))
    install.check_python((3, 14, 0))


def test_the_oldest_python_is_the_one_in_pyproject() -> None:
    assert PROJECT["requires-python"] == ">={}.{}".format(*install.OLDEST)


def test_a_missing_venv_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")  # as on Debian without python3-venv
    run = script("--venv", str(tmp_path / "venv"), PYTHONPATH=str(tmp_path))
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "apt-get install python{}.{}-venv".format(*sys.version_info[:2]) in run.stdout


def test_a_missing_compiler_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install.sys, "platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    install.warn_without_compiler()
    assert "apt-get install g++" in capsys.readouterr().out
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    install.warn_without_compiler()
    assert capsys.readouterr().out == ""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the script would run; nothing is. `answers` in the environment of a test decide what succeeds."""
    ran: list[str] = []
    monkeypatch.setattr(install, "run", lambda *command: ran.append(" ".join(command[1:])) or True)
    monkeypatch.setattr(install, "works", lambda *command: False)
    monkeypatch.setattr(install.sys, "platform", "linux")
    return ran


def test_a_gpu_user_gets_the_default_build(commands: list[str]) -> None:
    install.install_torch("python", "cuda", "")
    assert commands == [], "pip takes the CUDA build by itself"


def test_a_cpu_user_gets_the_cpu_build_that_pip_knows(
    commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "works", lambda *command: "--dry-run" in command)
    install.install_torch("python", "cpu", "")
    assert commands == [f"-m pip install -c constraints.txt torch=={install.pinned('torch')}+cpu"]


def test_a_cpu_user_gets_the_cpu_build_that_uv_knows(commands: list[str]) -> None:
    install.install_torch("python", "cpu", "")
    assert commands[0] == "-m pip install -q uv"
    assert commands[1].endswith(f"--torch-backend cpu torch=={install.pinned('torch')}")
    assert len(commands) == 2


def test_where_no_cpu_build_can_be_had_it_is_said_first(
    commands: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "run", lambda *command: False)
    install.install_torch("python", "cpu", "")
    assert "several GB" in (said := capsys.readouterr().out) and "TORCH_INDEX=" in said


def test_the_index_that_the_user_names_is_used(commands: list[str]) -> None:
    install.install_torch("python", "cuda", "https://example.org/builds")
    assert commands[0].endswith("--extra-index-url https://example.org/builds")


def test_a_torch_that_is_there_is_left_alone(commands: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "works", lambda *command: "-c" in command)
    for build in ("cpu", "cuda"):
        install.install_torch("python", build, "")
    assert commands == []


def test_what_is_installed_already_is_not_installed_again(
    commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = Path(install.venv_python(str(tmp_path)))
    python.parent.mkdir(parents=True)
    python.write_text("")
    monkeypatch.setattr(install, "has_pip", lambda python: True)
    install.install(str(tmp_path), ["lab"], "cpu")
    first = len(commands)
    assert any(command.endswith("-e.[lab]") for command in commands)
    for extras, torch in ((["lab"], "auto"), (["lab"], "cpu")):
        install.install(str(tmp_path), extras, torch)
    assert len(commands) == first, "the stamp says that all is there"
    install.install(str(tmp_path), ["test"])
    assert commands[-1].endswith("-e.[lab,test]") and not any("uninstall" in command for command in commands)
    install.install(str(tmp_path), ["lab"], "cuda")
    assert any("uninstall -q -y torch" in command for command in commands), "another build was asked for"
    assert json.loads((tmp_path / install.STAMP).read_text())["torch"] == "cuda"
    monkeypatch.setattr(install, "has_pip", lambda python: False)
    install.install(str(tmp_path), ["lab"])
    assert any("-m venv --clear" in command for command in commands), "its Python is gone: it is made anew"


def test_an_interrupted_installation_is_taken_up_again(
    commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "run", lambda *command: "-e.[lab]" not in command)
    with pytest.raises(install.CannotInstall, match="did not finish"):
        tmp_path.joinpath("bin").mkdir()
        install.install(str(tmp_path), ["lab"])
    monkeypatch.setattr(install, "run", lambda *command: commands.append(" ".join(command)) or True)
    install.install(str(tmp_path), ["lab"])
    assert any(command.endswith("-e.[lab]") for command in commands)


# make


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split()
    inner = {"install", "install-test", "weights"}
    assert {name for name in phony if not re.search(rf"^  {name} ", listed, re.MULTILINE)} == inner
    for variable in ("PORT", "HOST", "FRESH", "TORCH", "TORCH_INDEX", "PYTHON"):
        assert f"  {variable}=" in listed


def test_make_passes_host_and_port_on() -> None:
    command = ["make", "-n", "lab", "PORT=9123", "HOST=127.0.0.2", "FRESH=03"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'kvlab lab --host "127.0.0.2" --port "9123" --fresh "03"' in shown


# The browser


@pytest.mark.parametrize(
    ("user", "system", "browser", "expected"),
    [
        ("0", "debian", False, ["update -q", "install -q -y chromium"]),
        ("0", "debian", True, []),
        ("1000", "debian", False, []),
        ("0", "ubuntu", False, []),  # its chromium package is a wrapper that needs a running snapd
    ],
)
def test_chromium_is_installed_as_root_on_debian_only(
    tmp_path: Path, user: str, system: str, browser: bool, expected: list[str]
) -> None:
    programs = {"id": f"echo {user}", "apt-get": f'echo "$@" >> {tmp_path}/calls'}
    if browser:
        programs["google-chrome"] = ""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "grep").symlink_to(shutil.which("grep"))
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "os-release").write_text(f"NAME=x\nID={system}\n")
    (tmp_path / "calls").touch()
    env = {"PATH": str(folder), "OS_RELEASE": str(tmp_path / "os-release")}
    subprocess.run(["/bin/sh", str(ROOT / "tools" / "chromium.sh")], env=env, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == expected
