"""Lesson 03: what naive decoding repeats, and what a cache of keys and values saves.

The widgets are in `l03_stepper` and `l03_forget`,
the figures in `l03_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kvlab
from kvlab.measure.clock import alternate, once
from kvlab.measure.flops import decode_flops, naive_flops
from kvlab.measure.report import read_report
from kvlab.model.rotary import angles, rotate
from kvlab.stores import FREE, Dynamic, Step
from kvlab.stores.base import Knobs, View
from kvlab.stores.dynamic import DynamicLayer

from .recorded import NotMeasured, Recorded, results_folder, unmeasured

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder


# --- keys by a plain forward, with and without the causal mask ------------------------------------------


def keys_of(lm: Decoder, ids: Sequence[int], causal: bool = True) -> Tensor:
    """Keys of one text in every layer, `[layers, kv_heads, tokens, head_dim]`, without any cache.

    causal=False lets every token attend to all others, as an encoder does. Llama-family models only.
    """
    x = lm.embed(torch.tensor([list(ids)], device=lm.device))  # [1, tokens, hidden]
    blocks: list[Any] = list(lm.layers)
    positions = torch.arange(len(ids), device=lm.device)
    turn = angles(positions, blocks[0].self_attn.frequencies, lm.dtype)
    keys = []
    for block in blocks:
        attention, normed = block.self_attn, block.input_layernorm(x)
        shape = (1, len(ids), -1, attention.head_dim)
        q = rotate(attention.q_proj(normed).view(shape).transpose(1, 2), *turn)
        k = rotate(attention.k_proj(normed).view(shape).transpose(1, 2), *turn)
        v = attention.v_proj(normed).view(shape).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.post_attention_layernorm(x))
        keys.append(k[0])
    return torch.stack(keys)


def change(before: Tensor, after: Tensor) -> Tensor:
    """Largest |difference| over heads and channels of the positions that both have, `[layers, tokens]`."""
    tokens = min(before.shape[2], after.shape[2])
    return (before[:, :, :tokens] - after[:, :, :tokens]).abs().amax(dim=(1, 3))


# --- counting -------------------------------------------------------------------------------------------


def naive_rows(prompt: int, new: int) -> int:
    """Token rows that `new` naive steps compute after `prompt` tokens: prompt + (prompt + 1) + …"""
    return new * prompt + new * (new - 1) // 2


def cached_rows(prompt: int, new: int) -> int:
    """The same with a cache: the prompt once, then one row for every token that is fed back."""
    return prompt + new - 1


# --- a cache that makes a mistake: the new token does not see its own key and value ----------------------


class WithoutOwn(Dynamic):
    """A growing store whose single-token steps attend to the past only."""

    name = "without own"

    def layer(self, index: int, config: Any, knobs: Knobs, device: Any, dtype: Any) -> DynamicLayer:
        return _WithoutOwnLayer(knobs, self.growth)


class _WithoutOwnLayer(DynamicLayer):
    def append(self, k: Tensor, v: Tensor, step: Step) -> View:
        view = super().append(k, v, step)
        if step.tokens == 1:  # the entry is kept for later steps; only this step's mask hides it
            view.positions = view.positions.clone()
            view.positions[..., -1] = FREE
        return view


def logit_errors(right: Tensor, wrong: Tensor) -> list[float]:
    """Largest |difference| of each step's logits; both `[steps, vocab]`."""
    return (right - wrong).abs().amax(dim=-1).tolist()


def try_step(step: Any, q: Tensor, k: Tensor, v: Tensor) -> str:
    """Run a learner's `step(q, k, v, keys, values)` over q, k, v `[tokens, head_dim]`, one token at a time.

    Says how far it is from causal attention over all tokens at once.
    """
    keys, values, outputs = k[:0], v[:0], []
    for rows in zip(q, k, v, strict=True):
        result = step(*rows, keys, values)
        if result is None:
            return "`step` returns nothing yet."
        out, keys, values = result
        outputs.append(out)
    wanted = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    gap = float((torch.stack(outputs) - wanted).abs().max())
    return f"{len(q)} tokens one by one: off by {gap:.3f} from attention over all at once."


def top_words(lm: Decoder, logits: Tensor, k: int = 5) -> list[tuple[str, float]]:
    """The `k` most probable next tokens of `logits [vocab]`, with their probabilities."""
    best = logits.softmax(dim=-1).topk(k)
    words = map(lm.tokenizer.token, best.indices.tolist())
    return list(zip(words, best.values.tolist(), strict=True))


# --- recorded and live times ----------------------------------------------------------------------------


def decode_run(device: str = "cpu", folder: Path | None = None) -> Recorded | NotMeasured:
    """The recorded run on a "cpu" or "cuda" with naive and cached steps of one sequence at most contexts."""
    found = []
    for path in (folder or results_folder()).glob("*.json"):
        run = Recorded(path.stem, read_report(path))
        on_gpu = run.report.bench.startswith("gpu") or run.report.parameters.get("device") == "cuda"
        if on_gpu == (device == "cuda") and speedup_points(run):
            found.append(run)
    if found:
        small = "smollm2-135m"
        return max(found, key=lambda r: (model_of(r) == small, len(speedup_points(r)), r.report.date))
    text = unmeasured("decode-smollm2") if device == "cuda" else "Not yet measured on a CPU."
    return NotMeasured("decode", text)


def step_points(run: Recorded, path: str) -> list[tuple[int, float]]:
    """(context, median seconds of a step) of one way to decode, batch 1, in order of context."""
    return sorted((row["context"], row["median"]) for row in _rows(run) if row.get("path") == path)


def speedup_points(run: Recorded) -> list[tuple[int, float]]:
    """(context, naive over cached time) where both were measured."""
    cached = dict(step_points(run, "dynamic"))
    return [(n, naive / cached[n]) for n, naive in step_points(run, "naive") if n in cached]


def nearest_context(run: Recorded | NotMeasured, wanted: int) -> int:
    """The context nearest to `wanted` where both were measured; `wanted` itself where nothing was."""
    points = speedup_points(run) if isinstance(run, Recorded) else [(wanted, 1.0)]
    return min((n for n, _ in points), key=lambda n: abs(n - wanted))


def flop_ratio(config: Config, context: int) -> float:
    """FLOPs of a naive step over those of a cached one, after `context` tokens."""
    return naive_flops(config, context + 1).total / decode_flops(config, context + 1).total


def model_of(run: Recorded) -> str:
    """The model of a run's rows."""
    rows = _rows(run)
    return str(rows[0]["model"]) if rows else ""


def _rows(run: Recorded) -> list[dict[str, Any]]:
    rows = [row for row in run.rows if {"model", "context", "median"} <= set(row)]
    return [row for row in rows if row.get("batch", 1) == 1 and row["model"] == rows[0]["model"]]


def time_steps(lm: Decoder, context: int, rounds: int = 3) -> dict[str, tuple[int, float]]:
    """Median seconds of one naive and one cached step after `context` tokens, measured here, in turn."""
    ids = torch.arange(context, device=lm.device)[None] % lm.config.vocab_size
    new, cache = ids[:, :1], kvlab.Cache(lm)
    lm(ids, cache, last_only=True)

    def naive() -> float:
        return once(lambda: lm(torch.cat((ids, new), dim=1), last_only=True), lm.device)

    def cached() -> float:
        cache.crop(context)
        return once(lambda: lm(new, cache), lm.device)

    cached()  # makes room in the cache
    timings = alternate({"naive": naive, "with a cache": cached}, rounds)
    return {name: (context, timing.median) for name, timing in timings.items()}
