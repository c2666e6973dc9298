"""Lesson 09: what one step calls, which shapes it sees, how often it is compiled, and what that gains."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kvlab

from .recorded import Recorded

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Call = tuple[str, tuple[tuple[int, ...], ...]]  # an operation and the shapes of its tensors


class Watch(TorchDispatchMode):
    """Notes every operation that PyTorch runs inside `with Watch() as seen:` in `seen.calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
        self.calls.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


def calls_of_a_step(lm: Decoder, cache: kvlab.Cache) -> list[Call]:
    """The operations of one decode step."""
    with Watch() as seen:
        lm(torch.tensor([[1]], device=lm.device), cache, last_only=True)
    return seen.calls


def changed(before: Sequence[Call], after: Sequence[Call]) -> int:
    """How many operations of two steps differ in name or shapes."""
    return sum((Counter(before) - Counter(after)).values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's log lines (times, process numbers) about giving up."""
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._dynamo.convert_frame")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Compilations:
    """Calls a function through `torch.compile` and counts how often it is compiled, in `.count`.

    The backend only counts and runs what was captured, so no C++ compiler is needed. `dynamic` as in
    `torch.compile`: False takes every size as fixed; None lets a size vary once it has changed.
    """

    def __init__(self, function: Callable[..., Any], dynamic: bool | None = False) -> None:
        torch._dynamo.reset()
        self.count = 0
        self._run = torch.compile(function, backend=self._backend, dynamic=dynamic)

    def _backend(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.count += 1
        return graph.forward  # type: ignore[no-any-return]

    def __call__(self, *inputs: Any) -> Any:
        with _quiet():
            return self._run(*inputs)


def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one query `[head_dim]` over keys and values `[tokens, head_dim]`."""
    return (keys @ q / q.shape[0] ** 0.5).softmax(0) @ values


def compilations(tokens: int, head_dim: int = 8) -> dict[str, list[int]]:
    """How often one head's attention has been compiled after each of `tokens` tokens, three ways."""
    from .exercise import solution_module

    fixed = solution_module("09.1").step
    rows = torch.randn(3, tokens, head_dim, generator=torch.Generator().manual_seed(0))
    counts: dict[str, list[int]] = {}
    for name, dynamic in (("growing, fixed sizes", False), ("growing, sizes may vary", None)):
        grow = Compilations(attend, dynamic)
        counts[name] = []
        for n in range(1, tokens + 1):
            grow(rows[0, n - 1], rows[1, :n].clone(), rows[2, :n].clone())
            counts[name].append(grow.count)
    step, keys, values = Compilations(fixed), torch.zeros(tokens, head_dim), torch.zeros(tokens, head_dim)
    counts["static"] = []
    for n in range(tokens):
        step(*rows[:, n], keys, values, torch.tensor([n]))
        counts["static"].append(step.count)
    return counts


def whole_step(lm: Decoder) -> Compilations:
    """The package's own step over a static cache, `(cache, ids) -> logits`, with its compilations counted."""
    from kvlab.compiled import _step

    def step(cache: kvlab.Cache, ids: Tensor) -> Tensor:
        return _step(lm, cache, ids)

    return Compilations(step)


def take(step: Compilations, cache: kvlab.Cache, token: int) -> Tensor:
    """One token through the counted step, as `kvlab.compiled.CompiledStep` takes it."""
    ids = torch.tensor([[token]] * (cache.kind.batch or 1), device=cache.device)
    cache.check(ids)
    logits: Tensor = step(cache, ids)
    cache.count(1)
    return logits


# --- the recorded run -------------------------------------------------------------------------------------

PATHS = {
    "dynamic": "growing, eager",
    "static": "static, eager",
    "compiled": "static, compiled",
    "hf-dynamic": "transformers, eager",
    "hf-compiled": "transformers, compiled",
}


def step_times(run: Recorded, context: int) -> dict[str, float]:
    """Median seconds of one decode step after `context` tokens, batch 1, by path."""
    rows = run.select(context=context, batch=1)
    found = {row["path"]: row["median"] for row in rows}
    return {path: found[path] for path in PATHS if path in found}


def gain(run: Recorded, context: int) -> float:
    """How many times faster the compiled step is than the eager one over a growing cache."""
    times = step_times(run, context)
    return times["dynamic"] / times["compiled"]


def first_step(run: Recorded, context: int) -> float:
    """Seconds of the first compiled step, which compiles."""
    return float(run.select(context=context, batch=1, path="compiled")[0]["first_step_seconds"])


def tokens_to_pay_back(run: Recorded, context: int) -> int:
    """After how many tokens the time saved in each step has paid for compiling."""
    times = step_times(run, context)
    return round(first_step(run, context) / (times["dynamic"] - times["compiled"]))
