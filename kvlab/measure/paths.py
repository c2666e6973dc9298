"""The ways to take a decode step that are compared, all on the same weights.

Each is a `Path`: `start` on a prompt, `run` some greedy steps, `rewind` to the end of the prompt. All
compute the logits of the last position only, feed the most likely token back and leave it on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.compiled import CompiledStep

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

ROOM = 64  # slots of a static cache beyond the context and the steps, rounded up to this


class Path(ABC):
    """One way to decode."""

    label: str  # what a table calls it
    naive = False  # it computes the whole context at every step
    capacity: int | None = None  # slots of a static cache; None: the fewest that do, rounded up to `ROOM`

    def __init__(self, lm: Decoder):
        self.lm = lm
        self.token = self._first = torch.empty(0)  # [batch, 1] what the next step is fed

    def start(self, ids: Tensor, steps: int) -> None:
        """Take the prompt `ids [batch, tokens]`; `steps` steps will follow, again and again."""
        with torch.no_grad():
            self._first = self.prefill(ids, steps)[:, -1].argmax(dim=-1, keepdim=True)
        self.token = self._first

    def run(self, steps: int) -> Tensor:
        """`steps` steps; returns the logits of the last, `[batch, 1, vocab]`."""
        with torch.no_grad():
            for _ in range(steps):
                logits = self.step(self.token)
                self.token = logits[:, -1].argmax(dim=-1, keepdim=True)
        return logits

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self.back()
        self.token = self._first

    def room(self, slots: int) -> int:
        """Slots of a static cache, where `slots` are needed at most."""
        return self.capacity or -(-slots // ROOM) * ROOM

    @abstractmethod
    def prefill(self, ids: Tensor, steps: int) -> Tensor:
        """Logits `[batch, 1, vocab]` after the prompt."""

    @abstractmethod
    def step(self, ids: Tensor) -> Tensor:
        """Logits `[batch, 1, vocab]` after `ids [batch, 1]`."""

    @abstractmethod
    def back(self) -> None:
        """Forget the steps."""

    def cache_bytes(self) -> dict[str, int]:
        """Bytes held and read by the cache, where it tells."""
        return {}


class Kvlab(Path):
    """kvlab's decoder over one of its stores."""

    store = "dynamic"

    def make(self, batch: int, slots: int) -> Cache:
        """The cache; `slots` are needed at most."""
        return Cache(self.lm, store=self.store)

    def prefill(self, ids: Tensor, steps: int) -> Tensor:
        self.prompt = ids.shape[1]
        self.cache = self.make(ids.shape[0], ids.shape[1] + steps)
        logits = self.lm(ids, self.cache, last_only=True)
        self.step_with = self.stepper()
        return logits

    def stepper(self) -> Callable[[Tensor], Tensor]:
        """What takes one token."""
        return lambda ids: self.lm(ids, self.cache, last_only=True)

    def step(self, ids: Tensor) -> Tensor:
        return self.step_with(ids)

    def back(self) -> None:
        self.cache.crop(self.prompt)

    def cache_bytes(self) -> dict[str, int]:
        cache = self.cache
        return {
            "stored_bytes": cache.nbytes,
            "allocated_bytes": cache.allocated_bytes,
            "cache_bytes_read": cache.bytes_read,
        }


class Naive(Kvlab):
    """No cache: every step computes everything again."""

    label, store, naive = "kvlab, naive recompute", "none", True


class Dynamic(Kvlab):
    """Growing tensors, eager."""

    label, store = "kvlab dynamic", "dynamic"


class Static(Kvlab):
    """Preallocated tensors, eager."""

    label, store = "kvlab static", "static"

    def make(self, batch: int, slots: int) -> Cache:
        return Cache(self.lm, store="static", capacity=self.room(slots), batch=batch)


class Compiled(Static):
    """Preallocated tensors, the same decoder code compiled; on CUDA replayed as one graph."""

    label = "kvlab static, compiled"

    def stepper(self) -> Callable[[Tensor], Tensor]:
        return CompiledStep(self.lm, self.cache)


class HfDynamic(Path):
    """transformers' model in a generate-style loop with `DynamicCache`, eager."""

    label = "transformers DynamicCache"

    def __init__(self, lm: Decoder, twin: Any):
        super().__init__(lm)
        self.twin = twin
        self.call: Callable[..., Any] = twin

    def prefill(self, ids: Tensor, steps: int) -> Tensor:
        self.cache = self.make(ids.shape[1] + steps)
        logits = self.twin(input_ids=ids, past_key_values=self.cache, logits_to_keep=1).logits
        self._saved = [
            {name: value.clone() if _counter(value) else value for name, value in vars(layer).items()}
            for layer in self.cache.layers
        ]
        return logits

    def make(self, slots: int) -> Any:
        """The cache; `slots` are needed at most."""
        from transformers import DynamicCache

        return DynamicCache(config=self.twin.config)

    def step(self, ids: Tensor) -> Tensor:
        return self.call(input_ids=ids, past_key_values=self.cache, logits_to_keep=1).logits

    def back(self) -> None:
        # A dynamic layer replaces its tensors when it grows, so the old ones are still there; a static one
        # only counts, in a tensor whose address a compiled graph knows.
        for layer, saved in zip(self.cache.layers, self._saved, strict=True):
            for name, value in saved.items():
                now = getattr(layer, name)
                if _counter(value):
                    now.copy_(value)
                else:
                    setattr(layer, name, value)


def _counter(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


class HfCompiled(HfDynamic):
    """transformers' model with `StaticCache` and `torch.compile`; on CUDA with its CUDA graphs."""

    label = "transformers StaticCache, compiled"

    def make(self, slots: int) -> Any:
        from transformers import StaticCache

        self.cuda = self.lm.device.type == "cuda"
        mode = "reduce-overhead" if self.cuda else "default"
        self.call = torch.compile(self.twin.forward, mode=mode, dynamic=False)
        return StaticCache(config=self.twin.config, max_cache_len=self.room(slots))

    def step(self, ids: Tensor) -> Tensor:
        if self.cuda:
            torch.compiler.cudagraph_mark_step_begin()
        return super().step(ids)


PATHS: dict[str, type[Path]] = {
    "naive": Naive,
    "dynamic": Dynamic,
    "static": Static,
    "compiled": Compiled,
    "hf-dynamic": HfDynamic,
    "hf-compiled": HfCompiled,
}


def make_path(name: str, lm: Decoder, twin: Any) -> Path:
    """The path called `name`; `twin` is transformers' model, for the paths that need one.

    Raises:
        ValueError: a path of transformers without its model.
    """
    kind = PATHS[name]
    if not issubclass(kind, HfDynamic):
        return kind(lm)
    if twin is None:
        raise ValueError(f"{kind.label} needs transformers: pip install transformers")
    return kind(lm, twin)
