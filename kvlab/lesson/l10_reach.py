"""What passes a window: which hidden states a changed token changes, and what a model loses without it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import kvlab
from kvlab.model.attention import may_see

from .l10 import prose

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder
    from kvlab.record import Record


# --- a forward pass, layer by layer -----------------------------------------------------------------------


def stream(
    lm: Decoder,
    ids: Sequence[int],
    windowed: Collection[int] = (),
    layers: int | None = None,
    start: int = 0,
    x: Tensor | None = None,
) -> Iterator[Tensor]:
    """The hidden states `[tokens, hidden]` after each layer, or after the first `layers` of them.

    The full layers in `windowed` see the model's window only. All else stays: weights, rotary angles.
    `start`, `x`: begin with this layer, on hidden states computed before.
    """
    given = torch.tensor([list(ids)], device=lm.device)
    cache = kvlab.Cache(lm)
    step = cache.begin(given)
    frame = lm.frame(step)
    local = may_see(step.positions, step.ledger, lm.config.sliding_window)
    narrow = replace(frame, masks={**frame.masks, "full": local}, causal={**frame.causal, "full": False})
    x = lm.embed(given) if x is None else x[None]
    for index in range(start, lm.config.num_hidden_layers if layers is None else layers):
        x = lm.layers[index](x, cache.layers[index], narrow if index in windowed else frame)
        yield x[0]


def last(lm: Decoder, ids: Sequence[int], windowed: Collection[int] = ()) -> Tensor:
    """The hidden states after the last layer, `[tokens, hidden]`; `lm.head` makes logits of them."""
    return deque(stream(lm, ids, windowed), maxlen=1)[0]


def endings(lm: Decoder, ids: Sequence[int], cases: Sequence[Collection[int]]) -> list[Tensor]:
    """`last` for several choices of windowed layers; what comes before the first of them is computed once."""
    plain = list(stream(lm, ids))
    found = [plain[-1]] * len(cases)
    for i, windowed in enumerate(cases):
        if windowed:
            first = min(windowed)
            before = plain[first - 1] if first else None
            found[i] = deque(stream(lm, ids, windowed, start=first, x=before), maxlen=1)[0]
    return found


def full_layers(lm: Decoder) -> tuple[int, ...]:
    """The layers that see everything."""
    return tuple(i for i, kind in enumerate(lm.config.layer_types) if kind == "full")


# --- reach ------------------------------------------------------------------------------------------------


def change(
    lm: Decoder,
    ids: Sequence[int],
    other: Sequence[int],
    windowed: Collection[int] = (),
    layers: int | None = None,
) -> Tensor:
    """How much each hidden state differs between two texts, `[layers, tokens]`, as a share of its length."""
    pairs = zip(stream(lm, ids, windowed, layers), stream(lm, other, windowed, layers), strict=True)
    return torch.stack([(b - a).norm(dim=-1) / a.norm(dim=-1) for a, b in pairs])


def frontier(changed: Tensor) -> list[int]:
    """The last position whose hidden state changed at all, layer by layer.

    No tolerance: what a token cannot see is multiplied by an exact zero.
    """
    return [int(row.nonzero().max()) for row in changed]


# --- attention --------------------------------------------------------------------------------------------


def beyond(record: Record, layer: int, window: int) -> Tensor:
    """The share of attention that each query gives to tokens outside the window, `[heads, tokens]`."""
    weights = record.attention[layer][0]  # [heads, tokens, tokens]
    tokens = weights.shape[-1]
    far = torch.ones(tokens, tokens, dtype=torch.bool, device=weights.device).tril(-window)
    return (weights * far).sum(-1)


# --- quality ----------------------------------------------------------------------------------------------


def compare(
    lm: Decoder, ids: Sequence[int], windows: Sequence[Collection[int]], every: int = 1, block: int = 128
) -> tuple[Tensor, Tensor]:
    """Loss and divergence of the next token, in nats, each `[1 + len(windows), (tokens - 1) / every]`.

    Row 0 is the model as it is; row i + 1 has the layers `windows[i]` windowed. The divergence is
    KL(as it is ‖ windowed). Of the positions, every so many are judged.
    """
    targets = torch.tensor(list(ids[1:]), device=lm.device)[::every]
    states = [x[::every] for x in endings(lm, ids[:-1], [(), *windows])]
    losses, kls = [], []
    for rows in torch.arange(len(targets), device=lm.device).split(block):
        logs = [lm.head(x[rows]).log_softmax(-1) for x in states]  # each [block, vocab]
        losses.append(torch.stack([-one.gather(1, targets[rows, None])[:, 0] for one in logs]))
        kls.append(torch.stack([(logs[0].exp() * (logs[0] - one)).sum(-1) for one in logs]))
    return torch.cat(losses, dim=1), torch.cat(kls, dim=1)


# --- a needle ---------------------------------------------------------------------------------------------

NEEDLE = "The pass key is {key}."
QUESTION = "\n\nWhat is the pass key? The pass key is "


@dataclass(frozen=True)
class Needle:
    """A key at the beginning, prose, and a question at the end; the answer's ids come after the text."""

    ids: list[int]
    answer: list[int]
    digit: int  # position of the key's first digit


def needle(lm: Decoder, key: int, far: int, chapter: str = "typesseq") -> Needle:
    """A text in which the question ends `far` tokens behind the key's first digit."""
    tok = lm.tokenizer
    stated = tok.encode(NEEDLE.format(key=key))
    answer = tok.encode(str(key), bos=False)
    digit = next(i for i in range(len(stated)) if stated[i : i + len(answer)] == answer)
    question = tok.encode(QUESTION, bos=False)
    between = far - (len(stated) - digit) - len(question)
    filler = tok.encode("\n\n", bos=False) + prose(lm, between + 8, chapter)[1:]
    return Needle(stated + filler[:between] + question, answer, digit)


def answers(lm: Decoder, asked: Needle, cases: Sequence[Collection[int]] = ((),)) -> list[str]:
    """What the model says with each choice of windowed layers, digit by digit, each after the right ones.

    It is the key if and only if greedy decoding gives the key.
    """
    n = len(asked.answer)
    said = [x[-n:] for x in endings(lm, asked.ids + asked.answer[:-1], cases)]
    return [lm.tokenizer.decode(lm.head(x).argmax(-1).tolist()) for x in said]
