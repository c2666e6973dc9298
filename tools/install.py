"""Sets up .venv from pyproject.toml and constraints.txt; a second run finds its stamp and does nothing.

It runs before anything is installed: the standard library only, and syntax that an old Python still reads
(so that an old Python is told what it lacks). `make lab` and `make test` call it; on Windows call it by hand:
`py tools\\install.py`, then `.venv\\Scripts\\python -m kvlab lab`.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
STAMP = "kvlab.json"


class CannotInstall(Exception):
    """What is missing or went wrong, in a sentence that also says what to do."""


def check_python(version=sys.version_info):
    if tuple(version[:2]) < OLDEST:
        raise CannotInstall(
            "kvlab needs Python %d.%d or newer, and this is %d.%d. "
            "Name another one: make lab PYTHON=python3.12" % (OLDEST + tuple(version[:2]))
        )


def check_venv():
    """Debian and Ubuntu split venv's pip off into a package of its own."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise CannotInstall(
            "this Python cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install "
            "python%d.%d-venv" % tuple(sys.version_info[:2])
        ) from None


def warn_without_compiler():
    """torch.compile on a CPU calls a C++ compiler; everything else does without."""
    if os.environ.get("CXX") or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return
    say(
        "no C++ compiler found: the lessons work, only compiled steps (torch.compile) are left out. "
        "To have those too: "
        + ("xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install g++")
    )


def say(text):
    print("kvlab: " + text, flush=True)


def run(*command):
    """Runs a command with its output on the terminal and returns whether it succeeded."""
    return subprocess.call(command, cwd=ROOT) == 0


def works(*command):
    """The same without a word on the terminal: for questions."""
    return subprocess.call(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def venv_python(venv):
    return (
        os.path.join(venv, "Scripts", "python.exe")
        if os.name == "nt"
        else os.path.join(venv, "bin", "python")
    )


def inputs_key():
    """Changes whenever what should be installed changes."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp(venv):
    try:
        with open(os.path.join(venv, STAMP), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_stamp(venv, stamp):
    with open(os.path.join(venv, STAMP), "w", encoding="utf-8") as file:
        json.dump(stamp, file)


def wanted(extras, stamp, torch, index):
    """What the stamp should say afterwards; equal to `stamp` when there is nothing to do.

    Extras that are there stay, and so does the build of torch unless another one is asked for by name.
    """
    key = inputs_key()
    have = stamp.get("extras", []) if stamp.get("key") == key else []
    return {
        "key": key,
        "extras": sorted(set(have) | set(extras)),
        "torch": (stamp.get("torch") if torch == "auto" else torch) or torch_build(),
        "index": index or stamp.get("index", ""),
    }


def torch_build():
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


def pinned(name):
    with open(os.path.join(ROOT, "constraints.txt"), encoding="utf-8") as file:
        found = re.search(r"^%s==([^\s;]+)" % re.escape(name), file.read(), re.MULTILINE)
    if not found:
        raise CannotInstall("constraints.txt pins no %s; write it again: make lock" % name)
    return found.group(1)


def install_torch(python, build, index):
    """Installs the CPU build where the default would bring CUDA, or a build from the index the user names.

    On Linux the default build of torch carries several GB of CUDA libraries; elsewhere it is the small one.
    """
    version = pinned("torch")
    torch = "torch==" + version
    pip = (python, "-m", "pip")
    sources = ("--extra-index-url", index) if index else ()
    there = "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != sys.argv[1])"
    if works(python, "-c", there, version):
        return
    if build == "cuda" or not sys.platform.startswith("linux"):
        if index and not run(*pip, "install", "-c", "constraints.txt", torch, *sources):
            raise CannotInstall("torch could not be installed from TORCH_INDEX; the lines above say why")
        return
    cpu = torch + "+cpu"  # a version that only an index or a folder of CPU builds has
    if works(*pip, "install", "--dry-run", "--no-deps", cpu, *sources):
        if run(*pip, "install", "-c", "constraints.txt", cpu, *sources):
            return
    say("asking uv for the CPU build of torch: it knows where PyTorch keeps its builds")
    uv = (python, "-m", "uv", "pip", "install", "--python", python, "--no-deps", "--torch-backend", "cpu")
    if run(*pip, "install", "-q", "uv") and run(*uv, torch):
        return
    say(
        "no CPU build of torch could be had, so pip's default build follows: with CUDA, several GB. To avoid "
        "that, stop here and name the address that the selector on PyTorch's start page prints: "
        "make lab TORCH_INDEX=…"
    )


def has_pip(python):
    """Whether an environment is whole: its Python is there, and still the one that it was made with."""
    return os.path.exists(python) and works(python, "-c", "import pip")


def build_venv(python, venv):
    """Makes the environment; makes it anew if an interrupted run or a removed Python left a broken one."""
    if has_pip(python):
        return
    check_venv()
    say("making a virtual environment in " + venv)
    if not run(sys.executable, "-m", "venv", "--clear", venv):
        raise CannotInstall("the virtual environment could not be made; the lines above say why")


def install(venv, extras, torch="auto", index=""):
    """Brings `venv` to what pyproject.toml and constraints.txt say, unless its stamp says it is there."""
    stamp = read_stamp(venv)
    target = wanted(extras, stamp, torch, index)
    python = venv_python(venv)
    if stamp == target and has_pip(python):
        return
    warn_without_compiler()
    build_venv(python, venv)
    write_stamp(venv, dict(target, key="unfinished"))
    if stamp and (stamp.get("torch"), stamp.get("index")) != (target["torch"], target["index"]):
        run(python, "-m", "pip", "uninstall", "-q", "-y", "torch")
    install_torch(python, target["torch"], target["index"])
    say("installing kvlab[%s] with the versions in constraints.txt" % ",".join(target["extras"]))
    project = "-e.[%s]" % ",".join(target["extras"])
    if not run(python, "-m", "pip", "install", "-c", "constraints.txt", project):
        raise CannotInstall("the installation did not finish; the lines above say why. Try again to go on")
    write_stamp(venv, target)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Set up kvlab's virtual environment.")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"))
    parser.add_argument(
        "--extras", default="lab", help="comma-separated extras of pyproject.toml (default: lab)"
    )
    parser.add_argument("--torch", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--torch-index", default="", metavar="URL", help="where pip also looks for builds of torch"
    )
    args = parser.parse_args(argv)
    try:
        check_python()
        install(os.path.abspath(args.venv), args.extras.split(","), args.torch, args.torch_index)
    except CannotInstall as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
