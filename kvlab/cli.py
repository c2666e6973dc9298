"""The command line: a table of subcommands, and one place where errors become sentences and exit codes.

A subcommand is a function `main(argv: list[str]) -> int | None` anywhere in the package; a line in COMMANDS
makes it known. It is imported only when it is called, and an exception that it raises becomes one line.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from kvlab.zoo.errors import ModelError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# name: (where its `main` is, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "lab": ("kvlab.lab:main", "open the course in JupyterLab, on your own copies in work/"),
    "fetch": ("kvlab.zoo.cli:main", "download a model's weights, verified, once"),
    "plan": ("kvlab.measure.plan_cli:main", "count the bytes of a model and its cache: what fits where?"),
    "doctor": ("kvlab.doctor.cli:main", "check a model, or your own decoding step, for misuse of its cache"),
    "bench": ("kvlab.measure.bench:main", "measure decoding, prefill or loading, and record it"),
    "train-translation": ("kvlab.translation.cli:main", "train the translator of lesson 11, in minutes"),
    "train-indexer": ("kvlab.learned.cli:main", "train the small scorers of lesson 19, in minutes"),
}

EXAMPLES = """\
examples:
  kvlab lab                       work through the lessons
  kvlab lab --fresh 03            also make a new copy of lesson 03 beside yours
  kvlab fetch smollm2-135m        have a model's weights ready
  kvlab plan llama2-7b --tokens 100000    what a cache of that length costs
  kvlab bench decode --help       what one measurement can be told

`python -m kvlab …` is the same command. `kvlab COMMAND --help` says more about one of them.

exit codes: 0 done, 1 failed (one line says why; KVLAB_DEBUG=1 also shows where), 2 wrong usage
"""

# Errors that the package raises for people to read: their message is enough. Others also get their type.
EXPECTED = (ModelError, ValueError, OSError)


def usage() -> str:
    """What `kvlab --help` prints."""
    width = max(map(len, COMMANDS))
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: kvlab COMMAND [options]", "", "commands:", *lines, "", EXAMPLES])


def version() -> str:
    """The versions of kvlab, of torch and of Python."""
    import torch

    from kvlab import __version__

    return f"kvlab {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}"


def find(name: str) -> Callable[[list[str]], int | None]:
    """Import the function behind a subcommand."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(module), function)


def call(name: str, argv: list[str]) -> int:
    """Run one subcommand and turn what it raises into a line on stderr and an exit code."""
    try:
        return find(name)(argv) or OK
    except KeyboardInterrupt:
        return _say("stopped", INTERRUPTED)
    except BrokenPipeError:  # `kvlab fetch --list | head`: whoever read us has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("KVLAB_DEBUG"):
            raise
        return _say(_sentence(error), FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kvlab` with these arguments (default: those of the process) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="", file=sys.stdout if arguments else sys.stderr)
        return OK if arguments else USAGE
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(version())
        return OK
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "kvlab --help lists the commands"
        return _say(f"there is no command {name!r}: {hint}", USAGE)
    return call(name, rest)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("kvlab"):
        remedy = "`make lab` installs all that kvlab uses; by hand: pip install -e .[lab]"
        return f"{error.name} is not installed. {remedy}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error).strip()
    if isinstance(error, EXPECTED) and text:
        return text
    return f"{type(error).__name__}: {text} (KVLAB_DEBUG=1 shows where)"


def _say(text: str, code: int) -> int:
    print(f"kvlab: {text}", file=sys.stderr)
    return code
