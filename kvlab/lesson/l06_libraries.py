"""How many tokens the same settings keep in kvlab, transformers and x-transformers, on the same logits.

Both libraries belong to the `interop` extra; where it is not installed the lesson says so and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from kvlab.sampling import Sampling

from .l06 import kept
from .recorded import NotMeasured

Row = tuple[str, str, int]  # library, its order, tokens kept


def installed() -> bool:
    """Whether both libraries are there."""
    return all(find_spec(name) is not None for name in ("transformers", "x_transformers"))


def kept_by(logits: Tensor, temperature: float, rule: str, value: float) -> list[Row] | NotMeasured:
    """Tokens of logits `[vocab]` that each library keeps; rule: "top_p" or "min_p".

    The libraries' own functions run, in the order in which their `generate` calls them
    (`tests/test_lesson_06.py` drives both `generate`s to see that order).
    """
    if not installed():
        text = 'transformers and x-transformers are not installed: `pip install "kvlab[interop]"`.'
        return NotMeasured("libraries", text)
    from transformers.generation import logits_process as hf
    from x_transformers import autoregressive_wrapper as xt

    logits = logits[None]
    warm: Any = {"top_p": hf.TopPLogitsWarper, "min_p": hf.MinPLogitsWarper}[rule](value)
    cold: Callable[..., Tensor] = {"top_p": xt.top_p, "min_p": xt.min_p}[rule]
    ours = Sampling(temperature, **{rule: value}).filter(logits)  # type: ignore[arg-type]
    theirs = warm(None, hf.TemperatureLogitsWarper(temperature)(None, logits))
    return [
        ("kvlab", "temperature, filter", kept(ours)),
        ("transformers", "temperature, filter", kept(theirs)),
        ("x-transformers", "filter, temperature", kept(cold(logits.clone(), value) / temperature)),
    ]


def default_filter(logits: Tensor) -> int | NotMeasured:
    """Tokens of logits `[vocab]` that x-transformers' default filter keeps: top-k, a tenth of them."""
    if not installed():
        return NotMeasured("libraries", "x-transformers is not installed.")
    from x_transformers.autoregressive_wrapper import top_k

    return kept(top_k(logits[None]))
