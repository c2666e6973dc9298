"""Generation while gradients are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.callers import Caller
from kvlab.doctor.gallery.models import same_weights
from kvlab.doctor.gallery.scenes import New, alone, go_on
from kvlab.doctor.gallery.tape import Tape

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


def trainable(lm: Decoder) -> Decoder:
    """The same weights, where the embeddings take gradients."""
    twin = same_weights(lm)
    twin.embed_tokens.weight = nn.Parameter(lm.embed_tokens.weight.detach(), requires_grad=True)
    return twin


def decode(lm: Decoder, ids: Tensor, new: New) -> Tensor:
    cache = Tape(lm)
    return go_on(lambda tokens, cache: (cache(tokens), cache), cache(ids), cache, new)


def wrong(lm: Decoder, _: None, ids: Tensor, new: New) -> Tensor:
    with torch.enable_grad():
        return decode(lm, ids, new)


def right(lm: Decoder, _: None, ids: Tensor, new: New) -> Tensor:
    with torch.no_grad():
        return decode(lm, ids, new)


def training(lm: Decoder, code: Callable[..., Tensor]) -> Caller:
    """A program that trains its model and generates with it now and then."""
    return Caller(trainable(lm), code, lambda _: None)


def bytes_kept(program: Caller, ids: Tensor, new: New) -> int:
    """Bytes that autograd keeps alive for a backward pass through a program's logits, weights excluded."""
    tensors = [*program.lm.parameters(), *program.lm.buffers()]
    weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    held: list[Tensor] = []  # an address belongs to one storage only while that lives

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        program(ids, new)
    storages = [tensor.untyped_storage() for tensor in held]
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in weights}.values())


MISUSE = Misuse(
    "gradients-kept",
    "Gradients are recorded while generating",
    symptom="Every logit is right. Each step takes more memory, many times the size of the cache, until "
    "there is none left.",
    why="Outside `no_grad` every cached entry remembers how it was computed, and the whole graph of all "
    "earlier steps stays in memory with it.",
    fix="Generate under `torch.no_grad()` or `torch.inference_mode()`.",
    wrong_code=wrong,
    right_code=right,
    who="caller",
    scene=alone,
    make=training,
)
