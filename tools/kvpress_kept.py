"""Which entries kvpress keeps of a prompt, and which kvlab does: on the same weights, layer by layer.

kvpress (NVIDIA) is an independent implementation on transformers, of versions that do not go together with
those of this project. So it gets an environment of its own, in which `import kvlab` works from this folder:

    python -m venv kvpress-env
    kvpress-env/bin/pip install torch==2.13.0 "kvpress==0.5.*" "transformers<5.3"
    PYTHONPATH=. kvpress-env/bin/python tools/kvpress_kept.py results/kvpress-kept.json
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kvlab
from kvlab import zoo
from kvlab.eviction import H2O, TOVA, AdaKV, Eviction, PyramidKV, SnapKV, StreamingLLM
from kvlab.measure.machine import device_name
from kvlab.measure.quality_texts import corpus_digest, windows
from kvlab.measure.report import Report

TOKENS, BUDGET, WINDOW = 512, 128, 32
SHOWN = 0, 15, 29  # layers whose kept positions are written down
Kept = list[list[list[int]]]  # by layer and KV head: positions, ascending


def pressed(ids: Tensor, implementation: str, press: Any) -> tuple[Any, Any, list[Any]]:
    """transformers' cache of the whole prompt, its cache after a press, and what Ada-KV hides."""
    from transformers import DynamicCache

    model, whole, after = transformers_model(implementation), DynamicCache(), DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=whole)
        with press(model):
            model(ids, past_key_values=after)
            masks = [getattr(layer.self_attn, "masked_key_indices", None) for layer in model.model.layers]
    return whole, after, masks


def theirs(ids: Tensor, implementation: str, press: Any) -> Kept:
    """What a press keeps, found by looking for its keys among those of the whole prompt."""
    kept = []
    whole, after, masks = pressed(ids, implementation, press)
    for one, other, masked in zip(whole.layers, after.layers, masks, strict=True):
        heads = range(one.keys.shape[1])
        if masked is not None:  # Ada-KV: nothing is freed, entries are only hidden
            gone = set(zip(masked[1].tolist(), masked[2].tolist(), strict=True))
            kept.append([[t for t in range(ids.shape[1]) if (head, t) not in gone] for head in heads])
            continue
        same = (one.keys[0, :, :, None] == other.keys[0, :, None]).all(-1)  # [heads, tokens, kept]
        assert bool((same.sum(1) == 1).all()), "a kept entry is not one of the prompt's"
        kept.append([sorted(same[head].int().argmax(0).tolist()) for head in heads])
    return kept


@functools.cache
def transformers_model(implementation: str) -> Any:
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    c = our_model().config
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads, rms_norm_eps=c.rms_norm_eps, max_position_embeddings=8192,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        attn_implementation=implementation,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    weights = load_file(zoo.fetch("smollm2-135m") / "model.safetensors")
    model.load_state_dict({f"model.{name}": w.float() for name, w in weights.items()}, strict=False)
    return model


@functools.cache
def our_model() -> Any:
    return kvlab.load("smollm2-135m", device="cpu")


def ours(ids: Tensor, policy: Eviction) -> tuple[Kept, kvlab.Cache]:
    lm = our_model()
    cache = kvlab.Cache(lm, eviction=policy)
    with torch.no_grad():
        lm(ids, cache, last_only=True)
    layers: Any = cache.layers
    return [[head[head >= 0].tolist() for head in layer.ledger[0]] for layer in layers], cache


class Averaged(H2O):
    """H2O with the sum divided by the number of queries that could see the entry, as kvpress has it."""

    def scores(self, view, step, columns):
        age = step.positions.amax(-1)[:, None, None] - view.positions + 1
        return columns["received"] / age


def pairs() -> Iterator[tuple[str, Eviction, str, Any, str]]:
    """Name, our policy, transformers' attention, the press, and what is known to differ."""
    import kvpress as kp

    ratio = 1 - BUDGET / TOKENS
    snap = {"compression_ratio": ratio, "window_size": WINDOW, "kernel_size": 5}
    yield "StreamingLLM", StreamingLLM(4, BUDGET - 4), "sdpa", kp.StreamingLLMPress(ratio, 4), "nothing"
    yield "SnapKV", SnapKV(BUDGET, WINDOW), "sdpa", kp.SnapKVPress(**snap), "nothing"
    yield "TOVA", TOVA(BUDGET), "sdpa", kp.TOVAPress(ratio), "nothing"
    yield ("AdaKV", AdaKV(BUDGET, WINDOW), "sdpa", kp.AdaKVPress(kp.SnapKVPress(**snap), 0.2),
           "kvpress hides the entries and frees none; kvlab frees them")  # fmt: skip
    yield ("H2O", H2O(BUDGET, recent=1), "eager", kp.ObservedAttentionPress(ratio),
           "kvpress divides the sum by the queries that could see the entry; the paper does not")  # fmt: skip
    yield ("H2O, averaged", Averaged(BUDGET, recent=1), "eager", kp.ObservedAttentionPress(ratio),
           "nothing but the newest token, which kvlab always keeps")  # fmt: skip
    for beta in (20, 2):
        note = "kvpress counts the window within the pyramid, the paper's code beside it"
        if beta == 20:
            note += "; where the last layer would get less than the window, kvpress gives all the same"
        yield (f"PyramidKV, beta {beta}", PyramidKV(BUDGET, 30, WINDOW, beta=beta), "sdpa",
               kp.PyramidKVPress(**snap, beta=beta), note)  # fmt: skip


def overlap(a: Kept, b: Kept) -> list[float]:
    """Share of the smaller choice that is in the other one, by layer, over its heads."""
    found = []
    for one, other in zip(a, b, strict=True):
        common = sum(len(set(x) & set(y)) for x, y in zip(one, other, strict=True))
        found.append(common / min(sum(map(len, one)), sum(map(len, other))))
    return found


def ranges(positions: list[int]) -> str:
    """Ascending positions as "0-3 17 20-31"."""
    runs: list[list[int]] = []
    for p in positions:
        if runs and runs[-1][1] == p - 1:
            runs[-1][1] = p
        else:
            runs.append([p, p])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def rerotated(ids: Tensor) -> float:
    """Largest difference of StreamingLLM's keys at their new positions, kvpress's against ours."""
    import kvpress as kp

    press = kp.KeyRerotationPress(kp.StreamingLLMPress(1 - BUDGET / TOKENS, n_sink=4))
    (_, after, _), (_, cache) = pressed(ids, "sdpa", press), ours(ids, StreamingLLM(4, BUDGET - 4))
    lm = our_model()
    from kvlab.model.rotary import angles, rotate

    worst = 0.0
    for layer, attention, other in zip(cache.layers, lm.layers, after.layers, strict=True):
        places = torch.arange(BUDGET)[None, None]
        turn = angles(places, attention.self_attn.frequencies, torch.float32)
        worst = max(worst, float((rotate(layer.keys.read(), *turn) - other.keys).abs().max()))
    return worst


def main(out: str) -> None:
    torch.set_num_threads(1)
    lm = our_model()
    ids = windows(lm, 2, TOKENS)[1:]
    prompt = {"corpus": f"pydoc_data.topics {corpus_digest()}", "ids": ids[0].tolist()}
    parameters = {"model": "smollm2-135m", "tokens": TOKENS, "budget": BUDGET, "window": WINDOW} | prompt
    report = Report("kvpress", device_name("cpu"), parameters, "python tools/kvpress_kept.py", path=Path(out))
    for package in ("kvpress", "transformers"):
        report.versions[package] = importlib.metadata.version(package)
    for name, policy, implementation, press, differs in pairs():
        a, b = ours(ids, policy)[0], theirs(ids, implementation, press)
        by_layer, both = overlap(a, b), (("kvlab", a), ("kvpress", b))
        sizes = {"kvlab": [sum(map(len, x)) for x in a], "kvpress": [sum(map(len, x)) for x in b]}
        some = {f"{who} layer {i}": list(map(ranges, kept[i])) for i in SHOWN for who, kept in both}
        report.add(method=name, differs=differs, overlap=by_layer, entries=sizes, kept=some)
        print(f"{name:20} {sum(by_layer) / len(by_layer):.4f}  least {min(by_layer):.4f}  ({differs})")
    report.add(method="StreamingLLM, keys turned to their new positions", largest_difference=rerotated(ids))
    print(report.rows[-1])


if __name__ == "__main__":
    main(sys.argv[1])
