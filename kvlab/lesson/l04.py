"""Lesson 04: misuses of the gallery run on one prompt, and which contract each library keeps.

The theatre is in `l04_theatre`, the figures in `l04_figures`, the libraries' models in `l04_libraries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.doctor.gallery import GALLERY, Damage, damage

from .l04_libraries import in_x_transformers

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

EXACT = 1e-3  # a larger error than this is no rounding, in float32 and on these models
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # how SmolLM2 was taught to be asked

FOUR = {  # the unlabelled loops: a misuse, and whether its right way runs
    "A": ("positions-restart", False),
    "B": ("offset-by-one", False),
    "C": ("whole-sequence-appended", False),
    "D": ("offset-by-one", True),
}


class Stage:
    """Misuses on one prompt, each beside its right way: `stage["offset-by-one"]`, run once and kept.

    layer, head: the head whose attention is watched, in a smaller model the last layer's.
    """

    def __init__(self, lm: Decoder, prompt: str, new: int = 10, layer: int = 16, head: int = 0):
        self.lm, self.prompt, self.new = lm, prompt, new
        self.layer, self.head = min(layer, lm.config.num_hidden_layers - 1), head
        self._done: dict[str, Damage] = {}

    def __getitem__(self, name: str) -> Damage:
        if name not in self._done:
            self._done[name] = damage(GALLERY[name], self.lm, self.prompt, self.new, self.layer, self.head)
        return self._done[name]

    def fill(self, names: Iterable[str] = GALLERY) -> Stage:
        """Run all of `names` that have not run yet."""
        for name in names:
            _ = self[name]
        return self

    def texts(self, loops: dict[str, tuple[str, bool]]) -> dict[str, str]:
        """What some loops write: label -> (misuse, whether its right way) gives label -> text."""
        sides = {
            label: (self[name].right if right else self[name].wrong) for label, (name, right) in loops.items()
        }
        return {label: side.text for label, side in sides.items()}

    def words(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return "" if self.lm.tokenizer is None else self.lm.tokenizer.decode(list(tokens))


def shared_words(a: str, b: str) -> int:
    """How many words two texts have in common before they part."""
    same = [x == y for x, y in zip(a.split(), b.split(), strict=False)]
    return same.index(False) if False in same else len(same)


# --- contracts ------------------------------------------------------------------------------------------


def decode(step: Step, ids: Tensor, new: int, whole: bool) -> tuple[list[int], Tensor]:
    """Greedy decoding from `ids [1, tokens]`: the new tokens, and the logits `[new, vocab]` behind them.

    step(tokens [1, n], cache) -> (logits [1, m, vocab], cache). whole: pass the whole text at every step;
    otherwise the newest token only, after the prompt.
    """
    text, cache, said = ids, None, []
    for _ in range(new):
        logits, cache = step(text if whole or cache is None else text[:, -1:], cache)
        said.append(logits[0, -1])
        text = torch.cat([text, logits[:, -1:].argmax(-1)], dim=1)
    return text[0, ids.shape[1] :].tolist(), torch.stack(said)


def error(model: Callable[[Tensor], Tensor], ids: Tensor, tokens: Sequence[int], said: Tensor) -> float:
    """Largest |Δlogit| of `said [new, vocab]` against the same text computed whole, without a cache."""
    text = torch.cat([ids, torch.tensor([list(tokens)], device=ids.device)], dim=1)
    return float((model(text[:, :-1])[0, ids.shape[1] - 1 :] - said).abs().max())


CONTRACTS = {  # column: (the whole text at every step, input_not_include_cache)
    "whole text": (True, False),
    "last token": (False, False),
    "last token + flag": (False, True),
    "whole text + flag": (True, True),
}


def contract_error(model: Any, ids: Tensor, contract: str, new: int = 20) -> float:
    """Largest |Δlogit| of an x-transformers `TransformerWrapper` in one of `CONTRACTS`."""
    whole, flag = CONTRACTS[contract]

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        return model(tokens, cache=cache, return_intermediates=True, input_not_include_cache=flag)

    return error(model, ids, *decode(step, ids, new, whole))


def contract_table(lm: Decoder, ids: Tensor) -> dict[str, dict[str, float]]:
    """Positions -> contract -> largest |Δlogit|, on the weights of `lm` in x-transformers."""
    kinds: tuple[Any, ...] = ("rotary", "learned", "T5 bias", "none")
    models = {kind: in_x_transformers(lm, kind) for kind in kinds}
    return {k: {c: contract_error(m, ids, c) for c in CONTRACTS} for k, m in models.items()}


def verdict(error: float) -> str:
    """An error in words: exact up to rounding, or how far off."""
    return "exact" if error < EXACT else f"off by {error:.1f}"


# --- train mode -----------------------------------------------------------------------------------------


def mode_errors(lm: Decoder, ids: Tensor, train: bool, new: int = 12, **layers: float) -> tuple[float, float]:
    """What train mode costs in x-transformers: (cached against whole, one whole run against the next).

    layers: `attn_dropout`, `layer_dropout`, … of its `Decoder`. The truth is computed in eval mode; seeded.
    """
    model = in_x_transformers(lm, "rotary", **layers)
    torch.manual_seed(0)
    model.train(train)
    twice = model(ids), model(ids)

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        return model(tokens, cache=cache, return_intermediates=True)

    tokens, said = decode(step, ids, new, whole=True)
    model.eval()
    return error(model, ids, tokens, said), float((twice[0] - twice[1]).abs().max())
