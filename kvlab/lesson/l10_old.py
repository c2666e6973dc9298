"""What Gemma 3's cache was: recorded with transformers 4.51.3 on the real weights, outside the lesson.

In an environment of its own, from the root of this repository:

    python -m venv old && old/bin/pip install torch "transformers==4.51.3" matplotlib ipywidgets
    old/bin/python -m kvlab.lesson.l10_old                # writes results/hybrid-cache-transformers-4.51.json
    old/bin/python -m kvlab.lesson.l10_old versions       # adds one row to results/hybrid-versions.json

`versions` needs no weights; run it with as many versions as you like, each in its environment.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from kvlab import zoo
from kvlab.measure.machine import device_name
from kvlab.measure.report import Report, read_report
from kvlab.zoo.shapes import SHAPES
from kvlab.zoo.tokenizer import PieceTokenizer

NAME = "gemma3-270m"
PROMPT = "The capital of France is Paris. The capital of Italy is"
COMMAND = "python -m kvlab.lesson.l10_old"


# --- the loops ------------------------------------------------------------------------------------------


def manual_loop(model: Any, ids: Tensor, new: int, cache: Any = None) -> list[int]:
    """The loop that people write: pass what is new, keep the cache that `forward` gave back."""
    given, found = ids, []
    for _ in range(new):
        out = model(given, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        given = out.logits[:, -1:].argmax(-1)
        found.append(int(given))
    return found


def told_loop(model: Any, ids: Tensor, new: int, cache: Any) -> list[int]:
    """The same over a cache of one's own, and with the positions said: what version 4.51 needs."""
    given, found, at = ids, [], 0
    for _ in range(new):
        where = torch.arange(at, at + given.shape[1])
        out = model(given, past_key_values=cache, use_cache=True, cache_position=where)
        at += given.shape[1]
        given = out.logits[:, -1:].argmax(-1)
        found.append(int(given))
    return found


def errors_after(model: Any, ids: Tensor, prompt: int, cache: Any, told: bool) -> list[float]:
    """A prompt, then the rest of `ids [1, tokens]` one by one: each step's largest logit error."""
    wanted, found = model(ids, use_cache=False).logits[0], []
    for start in [0, *range(prompt, ids.shape[1])]:
        end = prompt if start == 0 else start + 1
        more = {"cache_position": torch.arange(start, end)} if told else {}
        out = model(ids[:, start:end], past_key_values=cache, **more)
        found.append(float((out.logits[0, -1] - wanted[end - 1]).abs().max()))
    return found


def look(cache: Any) -> dict[str, Any]:
    """Class, capacity, keys' shapes of a sliding and a full layer, and the bytes of all tensors."""
    keys, values = cache.key_cache, cache.value_cache
    return {
        "cache": type(cache).__name__,
        "capacity": cache.max_cache_len,
        "sliding_keys": list(keys[0].shape),
        "full_keys": list(keys[5].shape),
        "bytes": sum(t.nbytes for t in (*keys, *values)),
    }


# --- the record -----------------------------------------------------------------------------------------


def load() -> tuple[Any, PieceTokenizer]:
    """Gemma 3 270M as version 4.51 makes it, on the weights that kvlab fetched."""
    from safetensors.torch import load_file
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    c, folder = SHAPES[NAME], zoo.fetch(NAME)
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    )
    names += "head_dim rms_norm_eps sliding_window rope_theta bos_token_id pad_token_id"
    shape = {name: getattr(c, name) for name in names.split()}
    shape |= {"rope_local_base_freq": c.rope_local_theta, "sliding_window_pattern": 6}
    config = Gemma3TextConfig(**shape, query_pre_attn_scalar=256)
    weights = {f"model.{name}": w for name, w in load_file(folder / "model.safetensors").items()}
    model = Gemma3ForCausalLM.from_pretrained(None, config=config, state_dict=weights)
    return model.eval(), PieceTokenizer.from_file(folder / "tokenizer.json", c)


@torch.no_grad()
def run() -> Report:
    """Everything that lesson 10 says of version 4.51."""
    from transformers import HybridCache  # type: ignore[attr-defined]

    model, tok = load()
    ids = torch.tensor([tok.encode(PROMPT)])
    n, window = ids.shape[1], model.config.sliding_window

    def own(capacity: int) -> Any:
        return HybridCache(model.config, max_batch_size=1, max_cache_len=capacity)

    report = Report(
        "hybrid-cache", device_name("cpu"), {"prompt": PROMPT, "tokens": n, "window": window}, COMMAND
    )
    made = model(ids, use_cache=True).past_key_values
    report.add(what="forward", tokens=n, **look(made), reports=int(made.get_seq_length()))
    before = [keys.clone() for keys in made.key_cache]
    try:
        manual_loop(model, ids[:, -1:], 1, made)
    except IndexError as error:
        moved = [i for i, keys in enumerate(made.key_cache) if not torch.equal(keys, before[i])]
        report.add(what="one more", error=f"{type(error).__name__}: {error}", layers_that_moved=moved)
    said = model.generate(ids, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
    text = said.sequences[0, n:].tolist()
    report.add(what="generate", new=8, **look(said.past_key_values), text=tok.decode(text))
    repaired = told_loop(model, ids, 8, own(n + 8 - 1))
    report.add(what="repaired", same_text=repaired == text)
    for capacity in (512, 1024, 2048, 4096):
        report.add(what="capacity", **look(own(capacity)))
    long = torch.tensor([tok.encode(topics["typesseq"])[: window + 28]])
    for prompt, told in ((window - 7, True), (window + 8, True), (window + 8, False)):
        cache = own(long.shape[1])
        errors = errors_after(model, long, prompt, cache, told)
        empty = int((cache.key_cache[0][0, 0] == 0).all(-1).sum())
        more = {"empty_slots": empty, "reports": int(cache.get_seq_length())}
        report.add(what="past the window", prompt=prompt, positions_told=told, errors=errors, **more)
    return report


@torch.no_grad()
def version() -> dict[str, Any]:
    """What `forward` of a small random Gemma 3 makes in the transformers that is installed here."""
    import transformers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=6, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, sliding_window=8, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    found: dict[str, Any] = {"transformers": transformers.__version__}
    for tokens in (6, 20):  # below the window of 8, and past it
        ids = torch.arange(3, 4 + tokens)[None]
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        keys = cache.key_cache if hasattr(cache, "key_cache") else [layer.keys for layer in cache.layers]
        found |= {"forward_makes": type(cache).__name__, f"slots_after_{tokens}": [k.shape[2] for k in keys]}
        try:
            logits = model(ids[:, -1:], past_key_values=cache, use_cache=True).logits[0, -1]
            right = torch.allclose(logits, model(ids, use_cache=False).logits[0, -1], atol=1e-4)
            found[f"one_more_after_{tokens}"] = "right" if right else "wrong, no error"
        except IndexError as error:
            found[f"one_more_after_{tokens}"] = f"IndexError: {error}"
    found["hybrid_cache_is_there"] = hasattr(transformers, "HybridCache")
    return found


def main() -> None:
    """Record, or add a version."""
    parser = argparse.ArgumentParser(description="Record what Gemma 3's cache was.")
    parser.add_argument("which", nargs="?", choices=["versions"])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "results")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.which is None:
        run().save(asked.out / "hybrid-cache-transformers-4.51.json")
        return
    path = asked.out / "hybrid-versions.json"
    shape = {"tokens": [6, 20], "then": 1, "window": 8, "layers": "5 sliding, 1 full"}
    report = (
        read_report(path) if path.exists() else Report("hybrid-versions", "any", shape, f"{COMMAND} versions")
    )
    report.rows = [row for row in report.rows if row["transformers"] != version()["transformers"]]
    report.rows = sorted(
        [*report.rows, version()], key=lambda r: [int(p) for p in r["transformers"].split(".")]
    )
    report.save(path)


if __name__ == "__main__":
    main()
