"""`kvlab doctor`: check a model by name, or an object of one's own module."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from kvlab.cache import Cache
from kvlab.doctor.check import check
from kvlab.zoo import ModelError, load

STORES = ("none", "dynamic", "static", "sliding", "hybrid")
CAPACITY = 96  # of a static store: more than the doctor's texts of single steps have
EXAMPLES = """\
examples:
  kvlab doctor smollm2-135m               a model of the course
  kvlab doctor tiny --store static        with another store (none, static, sliding, hybrid)
  kvlab doctor mymodule:step              step(tokens, state) -> (logits, state), from mymodule.py here
  kvlab doctor mypackage.models:model     a transformers or x-transformers model, or a Subject

exit codes: 0 nothing wrong (rounding and meant losses included), 1 a misuse or unknown trouble, or an
error (one line says which), 2 wrong usage
"""


def main(argv: list[str]) -> int:
    """Print a report; 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        prog="kvlab doctor",
        description="Check that decoding with a KV cache gives what full recompute gives; name the misuse.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="MODEL_OR_MODULE:OBJECT", help="a model's name, or module:object")
    parser.add_argument("--store", choices=STORES, help="of a course model (default: dynamic)")
    parser.add_argument("--capacity", type=int, help="slots of that store (static: 96, others: as they grow)")
    parser.add_argument("--dtype", help="of a course model: float32 (default), bfloat16, float16, float64")
    parser.add_argument("--vocab-size", type=int, help="of a step whose model the doctor cannot find")
    options = parser.parse_args(argv)
    if ":" in options.what and not options.what.startswith("hf:"):
        if options.store or options.dtype or options.capacity is not None:
            parser.error("--store, --capacity and --dtype go with a model of the course, not with an object")
        report = check(find_object(options.what), vocab_size=options.vocab_size)
    else:
        report = check(*_course_model(options.what, options.store, options.capacity, options.dtype))
    print(report)
    return 0 if report.ok else 1


def _course_model(name: str, store: str | None, capacity: int | None, dtype: str | None) -> tuple[Any, Any]:
    lm = load(name, dtype=dtype)
    if store is None and capacity is None:
        return lm, None
    if store == "static" and capacity is None:
        capacity = CAPACITY
    return lm, Cache(lm, store or "dynamic", capacity=capacity)


def find_object(path: str) -> Any:
    """The object of "module:object"; the module is looked for here first, as `python -m` does.

    Raises:
        ModelError: there is no such module or object, or importing it failed.
    """
    module_name, _, dotted = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        thing: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ModelError(
                f"there is no module {module_name!r} here or on the Python path; write MODULE:OBJECT, as in "
                "mymodule:step."
            ) from error
        raise
    except Exception as error:
        raise ModelError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    for name in dotted.split("."):
        if not hasattr(thing, name):
            raise ModelError(f"{module_name} has no {dotted!r}.")
        thing = getattr(thing, name)
    return thing
