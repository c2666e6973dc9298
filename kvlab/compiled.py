"""The decoder's own code, compiled for one token at a time over a static cache.

Fixed shapes let `torch.compile` turn the operations of a step into a few fused loops. (The recipe is
gpt-fast's, PyTorch, 2023.) What is compiled at once differs by device. On CUDA it is one layer: it serves
all layers, which differ in nothing but their weights, and the step is then captured as one graph, so that a
token costs one launch. A CPU has no such graph, and entering compiled code thirty times for a token costs as
much as some layers do; there the whole step is compiled, which takes a minute the first time.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import sys
import types
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.cache import Cache, CacheError

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def why_not(cache: Cache) -> str | None:
    """Why a step over this cache cannot be compiled here, in one sentence; None: it can."""
    if not cache.kind.compilable:
        return (
            f'this "{cache.kind.name}" store changes its shapes at every token; compiling needs '
            'store="static", or "hybrid" or "sliding" with a capacity.'
        )
    if cache.selection is not None:
        return "a selection reads other entries at every token, which a compiled step cannot; leave it out."
    if sys.version_info >= (3, 15):
        return "torch.compile does not support this Python yet; use an older one."
    if cache.device.type == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        return (
            "torch.compile needs a C++ compiler on a CPU; install one (Debian, Ubuntu: apt-get install g++)."
        )
    return None


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs on a CPU."""
    return any(map(shutil.which, ("g++", "c++", "clang++", "cl")))


def _call(module: Callable[..., Tensor], *args: object) -> Tensor:
    return module(*args)


_numbers = itertools.count()


@functools.lru_cache(maxsize=64)
def _compiled(part: str, shape: Hashable, cuda: bool) -> Callable[..., Tensor]:
    """A compiled call of one part of the step ("layer", "head" or "step") for caches of one shape.

    torch.compile keeps what it compiled with a function's code, and gives up at eight variants of one
    code. So each shape has its own copy of the code, and caches of one shape share what was compiled.
    """
    # The products of one row are fast on CUDA as tuned reductions; inductor makes them such when it tunes.
    options: dict[str, Any] = {"coordinate_descent_tuning": True} if cuda else {}
    code = _call.__code__.replace(co_name=f"_call_{next(_numbers)}")
    return torch.compile(types.FunctionType(code, globals()), dynamic=False, fullgraph=True, options=options)


def _shape(cache: Cache) -> Hashable:
    """All that decides how a layer is compiled."""
    knobs = tuple(type(knob).__name__ for layer in cache.layers[:1] for knob in vars(layer.knobs).values())
    kind = cache.kind
    return cache.config, cache.device, cache.dtype, kind.name, kind.capacity, kind.batch, knobs


def _step(lm: Decoder, cache: Cache, ids: Tensor, *calls: Callable[..., Tensor]) -> Tensor:
    step = cache.open(ids)
    logits = lm.run(step, cache.layers, 1, *calls)
    cache.close(step)
    return logits


class CompiledStep:
    """`step(ids [batch, 1]) -> logits [batch, 1, vocab]`, appending to `cache` as `lm(ids, cache)` does.

    The first call compiles (seconds to a minute) and, on CUDA, captures. The cache's storage must stay
    where it is: `crop`, `reset` and `reorder` are fine, a fork needs a step of its own.

    Raises:
        CacheError: the cache's store cannot be compiled, or there is no compiler.
    """

    def __init__(self, lm: Decoder, cache: Cache):
        reason = why_not(cache)
        if reason is not None:
            raise CacheError(reason)
        self.lm, self.cache = lm, cache
        self._call = functools.partial(_compiled, shape=_shape(cache), cuda=cache.device.type == "cuda")
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ids = torch.zeros(cache.kind.batch or 1, 1, dtype=torch.int64, device=cache.device)
        self._logits = torch.empty(0)  # where the captured step leaves them

    def __call__(self, ids: Tensor) -> Tensor:
        """The next token's logits. On CUDA the returned tensor is overwritten by the next call."""
        if ids.shape[-1] != 1:
            raise CacheError(
                f"a compiled step takes ids [batch, 1], one token at a time, not {tuple(ids.shape)}."
            )
        self.cache.check(ids)
        with torch.no_grad():
            if ids.device.type == "cuda":
                logits = self._replay(ids)
            else:
                logits = self._call("step")(_step, self.lm, self.cache, ids)
        self.cache.count(1)
        return logits

    def _replay(self, ids: Tensor) -> Tensor:
        self._ids.copy_(ids)
        if self._graph is None:
            self._capture()
        self._graph.replay()
        return self._logits

    def _capture(self) -> None:
        # Warm-up compiles and tunes on a side stream, as capturing asks; it must leave no trace in the
        # cache, so the few tensors that a step moves forward are put back. (The keys and values that it
        # writes lie in the slot that the real step writes next.)
        state = [self.cache.ledger, self.cache._seen, self.cache._next]
        saved = [t.clone() for t in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._by_layer()
                for tensor, value in zip(state, saved, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):  # the stream of the warm-up, lest a guard compiles anew
            self._logits = self._by_layer()
        self._graph = graph

    def _by_layer(self) -> Tensor:
        return _step(self.lm, self.cache, self._ids, self._call("layer"), self._call("head"))
