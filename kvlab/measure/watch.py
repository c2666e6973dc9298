"""Watch modules while they run: what goes in, what comes out, how many rows are computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@contextmanager
def watch(modules: Mapping[str, nn.Module], note: Callable[[str, Tensor, Any], object]) -> Iterator[None]:
    """Inside the block, `note(name, input, output)` follows every call that this thread makes to a module.

    Calls of other threads are theirs: JupyterLab runs a widget's callback beside a cell, on the same model.
    """
    me = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def run(_module: nn.Module, given: tuple[Tensor, ...], out: Any) -> None:
            if threading.get_ident() == me:
                note(name, given[0], out)

        return run

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@contextmanager
def seen_by(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The first argument of every call to `modules`, in the order in which the calls end."""
    kept: list[Tensor] = []
    with watch({str(i): m for i, m in enumerate(modules)}, lambda _, given, __: kept.append(given.detach())):
        yield kept


@contextmanager
def rows_computed(lm: Decoder) -> Iterator[list[int]]:
    """Count work: each forward call of `lm` adds the number of token rows `[batch × tokens]` it computes."""
    calls: list[int] = []
    with watch({"embed": lm.embed_tokens}, lambda _, ids, __: calls.append(ids.numel())):
        yield calls
