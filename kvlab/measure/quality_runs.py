"""One cache, one evaluation: every token after the prompt goes through the cache by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.measure.quality_texts import Haystack
from kvlab.measure.watch import seen_by
from kvlab.stores.dynamic import DynamicLayer

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Tick = Callable[[], Any]  # called after every step: a progress bar moves
CHUNK = 16  # steps whose logits are compared at once
ANSWER = 7  # tokens of an answer: a space, five digits, and one more


@dataclass(frozen=True)
class Task:
    """What a cache is made for: a budget may be a share of the prompt, a static store needs the total."""

    prompt: int  # tokens
    total: int  # tokens
    rows: int


Factory = Callable[[Task], Cache]


@dataclass
class Prompt:
    """A prompt, and what enters each block of the model while it is taken."""

    ids: Tensor  # [rows, tokens]
    inputs: list[Tensor]  # of each layer, [rows, tokens, hidden]

    @classmethod
    def take(cls, lm: Decoder, ids: Tensor) -> Prompt:
        """Run the model once on `ids [rows, tokens]`."""
        with seen_by(list(lm.layers)) as inputs, torch.no_grad():
            lm(ids, last_only=True)
        return cls(ids, inputs)

    def fill(self, lm: Decoder, cache: Cache) -> Cache:
        """Fill `cache` as `lm(ids, cache)` does, in a tenth of its time and less.

        A prompt in one chunk is attended exactly, whatever the cache does with it afterwards: `append`
        returns it as it came. So what enters the blocks is the same for every cache, and keys and values
        follow from it, without attention. A fixed pattern shapes the prompt as well: with one, the model
        runs.
        """
        chosen = [layer.knobs.selection for layer in cache.layers]
        if any(one and one.shapes_prompts(lm.config.num_key_value_heads) for one in chosen):
            with torch.no_grad():
                lm(self.ids, cache, last_only=True)
            return cache
        with torch.no_grad(), cache.step(self.ids) as step:
            frame = lm.frame(step)
            for block, layer, x in zip(lm.blocks(), cache.layers, self.inputs, strict=True):
                block.self_attn.fill(block.input_layernorm(x), layer, frame)
        return cache


def steps(lm: Decoder, cache: Cache, ids: Tensor, tick: Tick = lambda: None) -> Iterator[Tensor]:
    """Logits `[rows, vocab]` after each of `ids [rows, tokens]`, passed one at a time."""
    for i in range(ids.shape[1]):
        with torch.no_grad():
            logits = lm(ids[:, i : i + 1], cache)[:, 0]
        tick()
        yield logits


def reference(lm: Decoder, prompt: Prompt, ids: Tensor, tick: Tick = lambda: None) -> Tensor:
    """What the full cache has before its output head, `[rows, tokens, hidden]`: small enough to keep.

    `ids [rows, tokens]`: the continuation. `lm.head` makes the logits of it.
    """
    cache = prompt.fill(lm, Cache(lm))
    with seen_by([lm.norm]) as kept:
        for _ in steps(lm, cache, ids, tick):
            pass
    return torch.cat(kept, dim=1)


def continuation(
    lm: Decoder, cache: Cache, prompt: Prompt, ids: Tensor, full: Tensor, tick: Tick = lambda: None
) -> dict[str, Any]:
    """Teacher-force `ids [rows, tokens]` through the cache and compare with the full one's distributions.

    full: of `reference`. Returns, one number a row: "kl" (nats a token, full against this), "nll" and
    "nll_full" (nats a token of the text itself), "agree" (share of steps whose likeliest token is the
    same); "kl_along": the mean KL of each chunk of steps; and the bytes: "stored" a token at the prompt's
    end, the part of it that is "uncoded" (numbers in the model's own dtype), "marginal" for each further
    token, "read" a step, all for one row.
    """
    prompt.fill(lm, cache)
    rows, tokens = ids.shape
    stored, uncoded, read = cache.nbytes, uncoded_bytes(cache), 0
    parts: dict[str, list[Tensor]] = {"kl": [], "agree": [], "nll": [], "nll_full": []}
    chunk: list[Tensor] = []
    for i, logits in enumerate(steps(lm, cache, ids, tick)):
        read += cache.bytes_read
        chunk.append(logits)
        if len(chunk) == CHUNK or i == tokens - 1:
            first = i + 1 - len(chunk)
            with torch.no_grad():
                truth = lm.head(full[:, first : i + 1])
            for name, part in _compare(truth, torch.stack(chunk, dim=1), ids[:, first + 1 : i + 2]).items():
                parts[name].append(part)
            chunk = []
    together = {name: torch.cat(part, dim=1) for name, part in parts.items()}  # [rows, tokens]
    along = [float(part.mean()) for part in parts["kl"]]
    length = prompt.ids.shape[1]
    return {
        **{name: x.mean(dim=1).tolist() for name, x in together.items()},
        "kl_along": along,
        "bytes": {
            "stored": stored / rows / length,
            "uncoded": uncoded / rows / length,
            "marginal": (cache.nbytes - stored) / rows / tokens,
            "read": read / rows / tokens,
        },
    }


def uncoded_bytes(cache: Cache) -> int:
    """Stored bytes of entries and page summaries that lie in the model's own dtype.

    The course runs in float32, practice in 16 bits: there these would be half as many, the others the same.
    """
    found = 0
    for layer in cache.layers:
        streams = [layer.keys, layer.values] if isinstance(layer, DynamicLayer) else []
        held = [buffer for stream in streams for buffer in stream.buffers()]
        held += list(layer.index.items.values()) if streams and layer.index else []
        found += sum(one.nbytes for one in held if one.tensors() and one.tensors()[0].dtype == cache.dtype)
        found += 0 if streams or layer.knobs.key_codec else layer.stored_bytes(cache.used)
    return found


def _compare(full: Tensor, other: Tensor, following: Tensor) -> dict[str, Tensor]:
    """KL, agreement `[rows, steps]` and NLL of `following [rows, steps or one less]`; logits `[…, vocab]`."""
    p, q = full.double().log_softmax(-1), other.double().log_softmax(-1)
    picked = following.unsqueeze(-1)
    return {
        "kl": (p.exp() * (p - q)).sum(-1),
        "agree": (full.argmax(-1) == other.argmax(-1)).double(),
        "nll": -q[:, : following.shape[1]].gather(-1, picked).squeeze(-1),
        "nll_full": -p[:, : following.shape[1]].gather(-1, picked).squeeze(-1),
    }


def needles(
    lm: Decoder, cache: Cache, prompt: Prompt, hay: Haystack, tick: Tick = lambda: None
) -> dict[str, list[int]]:
    """Which answers are right, 1 or 0 for each row and kind of question.

    The context is in the cache before any question is known (question-agnostic); each question then goes
    in by itself, token by token, and the answer is greedy.
    """
    prompt.fill(lm, cache)
    found = {}
    for kind, question in hay.questions.items():
        ask = cache.fork()
        found[kind] = _right(lm, ask, question, hay.answers[kind], tick)
    return found


def needles_aware(
    lm: Decoder, make: Factory, task: Task, hay: Haystack, tick: Tick = lambda: None
) -> dict[str, list[int]]:
    """As `needles`, but context and question are one prompt: a method may look at what will be asked."""
    found = {}
    for kind, question in hay.questions.items():
        cache = make(task)
        with torch.no_grad():
            lm(torch.cat((hay.ids, question[:, :-1]), dim=1), cache, last_only=True)
        found[kind] = _right(lm, cache, question[:, -1:], hay.answers[kind], tick)
    return found


def _right(lm: Decoder, cache: Cache, ids: Tensor, answers: list[str], tick: Tick) -> list[int]:
    said = []
    for _ in range(ANSWER):
        *_, logits = steps(lm, cache, ids, tick)
        ids = logits.argmax(-1, keepdim=True)
        said.append(ids)
    texts = [lm.tokenizer.decode(row) for row in torch.cat(said, dim=1).tolist()]
    return [int(text.strip()[:5] == answer) for text, answer in zip(texts, answers, strict=True)]


def copying(lm: Decoder, cache: Cache, prompt: Prompt, ids: Tensor, tick: Tick = lambda: None) -> list[float]:
    """The share of `ids [rows, tokens]` that is predicted right the second time; `prompt` ends with them."""
    prompt.fill(lm, cache)
    said = torch.stack([logits.argmax(-1) for logits in steps(lm, cache, ids, tick)], dim=1)
    return (said[:, :-1] == ids[:, 1:]).double().mean(dim=1).tolist()
