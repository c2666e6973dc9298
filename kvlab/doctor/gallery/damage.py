"""What a misuse does to a model: in logits, in text, and in one attention head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.elsewhere import seeded
from kvlab.record import record

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder


@dataclass
class Side:
    """One way, wrong or right, on one prompt.

    `ids`, `positions` and `maps` go call by call, the prompt first, of the batch row that is compared: the
    tokens that went in, where they were put, and what the watched head attended to, `[tokens, slots]`.
    They are empty where the way runs on a copy of the model.
    """

    text: str  # what it writes, left to itself; "" where the model has no tokenizer
    tokens: list[int]  # the same as ids, a stop token included
    positions: list[list[int]]
    ids: list[list[int]]
    maps: list[Tensor] = field(repr=False)


@dataclass
class Damage:
    """Wrong beside right. Rows are new tokens; both were given the same ones, those of the right way."""

    name: str
    prompt_ids: list[int]
    wrong: Side
    right: Side
    error: Tensor  # [new] largest |Δlogit| of each step
    kl: Tensor  # [new] KL(right ‖ wrong) of the next-token distribution, in nats
    right_error: float | None  # largest |Δlogit| of the right way against full recompute; None: it is lossy
    first_difference: int | None  # index of the first new token that both would choose differently

    @property
    def worst(self) -> float:
        """Largest |Δlogit| of all steps."""
        return float(self.error.max())


class Watch:
    """What one head saw and where tokens were put, call by call."""

    def __init__(self, lm: Decoder, layer: int, head: int):
        self.lm, self.layer, self.head = lm, layer, head
        self.positions: list[list[int]] = []
        self.ids: list[list[int]] = []
        self.maps: list[Tensor] = []

    def __call__(self, _module: Any, args: tuple[Any, ...], _output: Any) -> None:
        if self.lm.recording is None:  # a call of another thread, a widget's beside the cell
            return
        step = args[2].step
        self.positions.append(step.positions[0].tolist())
        self.ids.append(step.ids[0].tolist())
        self.maps.append(self.lm.recording.attention[self.layer][0, self.head].cpu())

    def side(self, tokens: list[int], drop: int = 0) -> Side:
        """What was seen, without the last `drop` calls, beside what is written."""
        text = "" if self.lm.tokenizer is None else self.lm.tokenizer.decode(tokens)
        calls = len(self.ids) - drop
        return Side(text, tokens, self.positions[:calls], self.ids[:calls], self.maps[:calls])


@contextmanager
def watched(lm: Decoder, layer: int, head: int) -> Iterator[Watch]:
    """Watch every call of `lm` inside the `with` block."""
    watch = Watch(lm, layer, head)
    hook = lm.layers[layer].register_forward_hook(watch)
    try:
        with record(lm):
            yield watch
    finally:
        hook.remove()


def damage(
    misuse: Misuse,
    lm: Decoder,
    prompt: str | Tensor,
    new: int = 20,
    layer: int | None = None,
    head: int = 0,
) -> Damage:
    """Run a misuse and its fix on a prompt, `new` tokens greedily.

    prompt: text, or ids `[1, tokens]`. layer, head: the head to watch; None: the middle layer.

    Errors are measured on the same tokens, those of the right way: otherwise the first token that differs
    would make everything after it another text.

    Raises:
        ValueError: text for a model without a tokenizer, ids of another shape, fewer than 4 tokens of prompt
            (some misuses cut it in two), or no new tokens.
    """
    ids = _ids(lm, prompt)
    if new < 1:
        raise ValueError(f"new must be at least 1, not {new}.")
    layer = lm.config.num_hidden_layers // 2 if layer is None else layer
    with seeded(), watched(lm, layer, head) as of_right:
        good = misuse.loop(lm, ids, new, right=True)
    tokens = up_to_stop(lm, good)
    good = good[: len(tokens)]
    with seeded(), watched(lm, layer, head) as of_wrong:
        bad = misuse.loop(lm, ids, tokens).detach()
    differ = (good.argmax(-1) != bad.argmax(-1)).nonzero()
    log_good, log_bad = good.double().log_softmax(-1), bad.double().log_softmax(-1)
    with seeded():
        free = tokens if not len(differ) else up_to_stop(lm, misuse.loop(lm, ids, new))
    return Damage(
        misuse.name,
        ids[0].tolist(),
        of_wrong.side(free),
        of_right.side(tokens, drop=new - len(tokens)),
        error=(good.double() - bad.double()).abs().amax(-1).cpu(),
        kl=(log_good.exp() * (log_good - log_bad)).sum(-1).clamp(min=0).cpu(),
        right_error=float((good - _truth(misuse, lm, ids, tokens)).abs().max()) if misuse.exact else None,
        first_difference=int(differ[0]) if len(differ) else None,
    )


def _ids(lm: Decoder, prompt: str | Tensor) -> Tensor:
    """The prompt as ids `[1, tokens]` on the model's device."""
    if isinstance(prompt, str):
        if lm.tokenizer is None:
            raise ValueError(f"{lm.config.name} has no tokenizer; give ids [1, tokens], not text.")
        prompt = torch.tensor([lm.tokenizer.encode(prompt)])
    if prompt.dim() != 2 or len(prompt) != 1 or prompt.shape[1] < 4:
        raise ValueError(
            f"the prompt must be one text of at least 4 tokens, [1, tokens], not {list(prompt.shape)}."
        )
    return prompt.to(lm.device)


def up_to_stop(lm: Decoder, logits: Tensor) -> list[int]:
    """The greedy tokens of logits `[new, vocab]`, ended by the first stop token."""
    tokens = logits.argmax(-1).tolist()
    stops = [i for i, token in enumerate(tokens) if token in lm.config.eos_token_ids]
    return tokens[: stops[0] + 1] if stops else tokens


def _truth(misuse: Misuse, lm: Decoder, ids: Tensor, tokens: list[int]) -> Tensor:
    """What full recompute says at the same places, `[new, vocab]`."""
    text = torch.cat([ids, torch.tensor([tokens[:-1]], dtype=torch.int64, device=ids.device)], dim=1)
    full = misuse.right(lm).full if misuse.who == "step" else lm
    return full(text)[0, ids.shape[1] - 1 :]
