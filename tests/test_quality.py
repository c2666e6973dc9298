"""The bench that judges lossy caches: its texts, its decode path, its intervals, its file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kvlab
from kvlab import cli
from kvlab.measure import quality as bench_module
from kvlab.measure import quality_runs
from kvlab.measure.methods import METHODS, find_methods, method
from kvlab.measure.quality import Settings, kept_reference, quality
from kvlab.measure.quality_runs import (
    Prompt,
    Task,
    continuation,
    copying,
    needles,
    reference,
    uncoded_bytes,
)
from kvlab.measure.quality_stats import t_interval, times, wilson
from kvlab.measure.quality_texts import corpus, haystack, random_tokens, windows
from kvlab.measure.report import read_report
from kvlab.model import Decoder

SMALL = Settings(offsets=2, tokens=48, further=20, needles=2, needle_tokens=(256,), copies=(8,))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))


def parts(lm: Decoder, rows: int = 2, tokens: int = 24, further: int = 20) -> tuple[Prompt, Tensor]:
    ids = windows(lm, rows, tokens + further)
    return Prompt.take(lm, ids[:, :tokens]), ids[:, tokens:]


# --- texts ---


def test_windows_are_stretches_of_the_corpus_that_do_not_overlap(tiny: Decoder) -> None:
    ids = windows(tiny, 3, 100)
    texts = [tiny.tokenizer.decode(row) for row in ids.tolist()]
    begins = tiny.tokenizer.encode("")
    assert all(row[: len(begins)] == begins for row in ids.tolist())
    starts = [corpus().encode().index(text.encode()) for text in texts]
    assert starts == sorted(starts) and min(b - a for a, b in zip(starts, starts[1:], strict=False)) > 100
    with pytest.raises(ValueError, match="too few for 3 x 10000000"):
        windows(tiny, 3, 10_000_000)


def test_a_haystack_states_each_needle_once_and_asks_for_one_of_two(tiny: Decoder) -> None:
    hay = haystack(tiny, 4, 300, seed=3)
    assert hay.ids.shape == (4, 300)
    for row, context in enumerate(tiny.tokenizer.decode(r) for r in hay.ids.tolist()):
        city = ("Paris", "Tokyo")[row % 2]
        other = ("Tokyo", "Paris")[row % 2]
        assert context.count(f"The pass key is {hay.answers['key'][row]}.") == 1
        assert context.count(f"number for {city} is: {hay.answers['two'][row]}.") == 1
        assert (
            context.count(f"number for {other} is:") == 1
            and hay.answers["two"][row] not in (context.split(f"number for {other} is: ")[1][:5])
        )
        assert tiny.tokenizer.decode(hay.questions["two"][row].tolist()).count(city) == 2
    depths = [context.index("The pass key") for context in (tiny.tokenizer.decode(r) for r in hay.ids)]
    assert max(depths) - min(depths) > 100
    assert torch.equal(haystack(tiny, 4, 300, seed=3).ids, hay.ids)
    assert haystack(tiny, 4, 300, seed=4).answers != hay.answers
    with pytest.raises(ValueError, match="too few for three needles"):
        haystack(tiny, 1, 120)


def test_random_tokens_are_seeded(tiny: Decoder) -> None:
    assert torch.equal(random_tokens(tiny, 2, 9), random_tokens(tiny, 2, 9))
    assert not torch.equal(random_tokens(tiny, 2, 9), random_tokens(tiny, 2, 9, seed=1))


# --- the decode path ---

CACHES = {
    "full": {},
    "static": {"store": "static", "capacity": 30, "batch": 2},
    "int8": {"codec": kvlab.Int8()},
    "kivi": {"codec": kvlab.KIVI(bits=2, group_size=8, residual=8)},
    "plain keys": {"codec": kvlab.Quantize(4, group_size=8, plain_keys=True)},
    "window": {"eviction": kvlab.SinkRecent(2, 6)},
    "oracle": {"selection": kvlab.TopK(5)},
    "snapkv": {"eviction": kvlab.SnapKV(10, window=4)},
    "int4, pages": {
        "codec": kvlab.Quantize(4, group_size=8, residual=4),
        "selection": kvlab.Quest(4, 2, first=0),
    },
    "all three": {
        "codec": kvlab.Quantize(4, group_size=8, residual=4),
        "eviction": kvlab.SnapKV(16, window=4),
        "selection": kvlab.Quest(4, 2, first=0),
    },
}


@pytest.mark.parametrize("arguments", CACHES.values(), ids=CACHES)
def test_a_filled_cache_is_what_the_prompt_makes(exact: Decoder, arguments: dict[str, Any]) -> None:
    prompt, further = parts(exact, further=3)
    filled = prompt.fill(exact, kvlab.Cache(exact, **arguments))
    plain = kvlab.Cache(exact, **arguments)
    with torch.no_grad():
        exact(prompt.ids, plain)
        assert (filled.nbytes, filled.used) == (plain.nbytes, plain.used)
        for i in range(3):
            ids = further[:, i : i + 1]
            torch.testing.assert_close(exact(ids, filled), exact(ids, plain), atol=1e-10, rtol=0)


def test_an_interrupted_fill_leaves_an_empty_cache(exact: Decoder) -> None:
    prompt, _ = parts(exact)
    cache = kvlab.Cache(exact)
    broken = Prompt(prompt.ids, [*prompt.inputs[:-1], prompt.inputs[-1][..., :1]])
    with pytest.raises((RuntimeError, ValueError)):
        broken.fill(exact, cache)
    assert cache.used == 0 and cache.nbytes == 0


def test_continuation_is_kl_nll_and_agreement_of_single_steps(exact: Decoder) -> None:
    prompt, further = parts(exact, further=18)
    full = reference(exact, prompt, further)
    arguments = {"codec": kvlab.Quantize(2, group_size=8)}
    found = continuation(exact, kvlab.Cache(exact, **arguments), prompt, further, full)
    text = torch.cat((prompt.ids, further), dim=1)
    with torch.no_grad():
        p = exact(text).log_softmax(-1)[:, -18:]  # everything computed again, nothing cached
        cache = kvlab.Cache(exact, **arguments)
        exact(prompt.ids, cache)
        q = torch.cat([exact(further[:, i : i + 1], cache) for i in range(18)], dim=1).log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    assert found["kl"] == pytest.approx(kl.mean(1).tolist(), abs=1e-10)
    assert found["kl_along"] == pytest.approx([kl[:, :16].mean().item(), kl[:, 16:].mean().item()])
    said = further[:, 1:].unsqueeze(-1)
    assert found["nll"] == pytest.approx((-q[:, :-1].gather(-1, said)).mean((1, 2)).tolist())
    assert found["nll_full"] == pytest.approx((-p[:, :-1].gather(-1, said)).mean((1, 2)).tolist())
    assert found["agree"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean(1).tolist())
    assert found["bytes"]["marginal"] == 4 * 2 * 2 * (16 * 2 + 2 * 32) / 8  # layers, streams, heads


def test_tokens_come_one_at_a_time(tiny: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    forward = Decoder.forward

    def counted(lm: Decoder, ids: Tensor, *rest: Any, **options: Any) -> Tensor:
        passed.append(ids.shape[1])
        return forward(lm, ids, *rest, **options)

    monkeypatch.setattr(Decoder, "forward", counted)
    quality(tiny, {"int8": lambda task: kvlab.Cache(tiny, codec=kvlab.Int8())}, SMALL)
    prompts = [n for n in passed if n > 1]
    assert prompts == [48, 256, 8], "each prompt runs once, and only prompts come in one chunk"
    assert passed.count(1) >= 2 * 20 + 8


def test_exact_is_told_from_lossy_and_more_bits_are_better(tiny: Decoder) -> None:
    caches = {f"q{bits}": kvlab.Quantize(bits, group_size=8) for bits in (8, 4, 2)}
    makers = {name: lambda task, c=codec: kvlab.Cache(tiny, codec=c) for name, codec in caches.items()}
    makers["full"] = lambda task: kvlab.Cache(tiny)
    makers["static"] = lambda task: METHODS["static"].factory(tiny)(task)
    found = quality(tiny, makers, Settings(offsets=3, tokens=64, further=24, evaluations=("kl",)))
    assert found["full"]["exact"] and found["static"]["exact"]
    assert not any(found[name]["exact"] for name in caches)
    mean = {name: t_interval(found[name]["kl"]).mean for name in caches}
    assert mean["q8"] < mean["q4"] / 10 < mean["q2"] / 100


def test_right_answers_are_counted_by_row(tiny: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    hay = haystack(tiny, 2, 256)
    answers = iter([f" {hay.answers['key'][0]}.", " 00000."])

    said = torch.tensor([list(next(answers).encode()) for _ in range(2)])  # bytes are this model's tokens
    given: list[Tensor] = []

    def steps(lm: Decoder, cache: kvlab.Cache, ids: Tensor, tick: object) -> Iterator[Tensor]:
        given.append(ids)
        for _ in range(ids.shape[1]):
            yield torch.nn.functional.one_hot(said[:, (len(given) - 1) % 7], 259).float()

    monkeypatch.setattr(quality_runs, "steps", steps)
    prompt = Prompt.take(tiny, hay.ids)
    found = needles(tiny, kvlab.Cache(tiny), prompt, hay)
    assert found["key"] == [1, 0] and found["two"] == [0, 0]
    assert torch.equal(given[0], hay.questions["key"]) and torch.equal(given[7], hay.questions["two"])
    assert torch.equal(given[1], said[:, :1]), "what was said is what comes next"


def test_copying_looks_at_the_next_token(tiny: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_tokens(tiny, 2, 9)

    def steps(lm: Decoder, cache: kvlab.Cache, ids: Tensor, tick: object) -> Iterator[Tensor]:
        for i in range(9):
            yield torch.nn.functional.one_hot(ids[:, min(i + 1, 8)], 259).float()

    monkeypatch.setattr(quality_runs, "steps", steps)
    assert copying(tiny, kvlab.Cache(tiny), Prompt.take(tiny, ids), ids) == [1.0, 1.0]


def test_both_protocols(tiny: Decoder) -> None:
    settings = Settings(needles=2, needle_tokens=(256,), protocol="both", evaluations=("needles",))
    found = quality(tiny, {"full": lambda task: kvlab.Cache(tiny)}, settings)["full"]
    assert found["needles"] == found["needles_aware"], "an exact cache does not care when the question comes"


@pytest.mark.weights
def test_the_full_cache_finds_needles(smollm2: Decoder) -> None:
    settings = Settings(needles=4, needle_tokens=(256,), evaluations=("needles",))
    makers = {
        "full": lambda task: kvlab.Cache(smollm2),
        "window": lambda task: kvlab.Cache(smollm2, eviction=kvlab.SinkRecent(4, 32)),
    }
    found = quality(smollm2, makers, settings)
    assert sum(sum(hits) for hits in found["full"]["needles"]["256"].values()) >= 7
    assert sum(sum(hits) for hits in found["window"]["needles"]["256"].values()) <= 2


# --- what is kept ---


def test_the_reference_is_computed_once(tiny: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, further = parts(tiny)
    first = kept_reference(tiny, prompt, further)
    monkeypatch.setattr(bench_module, "reference", lambda *_: pytest.fail("computed again"))
    assert torch.equal(kept_reference(tiny, prompt, further), first)
    with pytest.raises(pytest.fail.Exception):
        kept_reference(tiny, prompt, further[:, 1:])


def bench(*argv: str) -> int:
    return cli.main(["bench", "quality", "--model", "tiny", "--device", "cpu", "--quick", *argv])


def test_runs_merge_by_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "q.json"
    assert bench("--methods", "full", "int8", "--out", str(out)) == 0
    before = {row["method"]: row for row in read_report(out).rows}
    assert bench("--methods", "int8", "window-25", "--offsets", "3", "--out", str(out)) == 0
    rows = {row["method"]: row for row in read_report(out).rows}
    assert list(rows) == ["full", "int8", "window-25"]
    assert rows["full"] == before["full"] and len(rows["int8"]["kl"]) == 3
    assert rows["int8"]["source"]["settings"]["offsets"] == 3
    assert set(rows["full"]["source"]) >= {"date", "commit", "command", "versions", "corpus", "device"}
    assert "/" not in rows["full"]["source"]["command"].replace("kvlab bench", "")
    shown = capsys.readouterr().out
    assert "window-25" in shown and "written to" in shown


def test_an_evaluation_is_added_to_what_was_judged_alike(tmp_path: Path) -> None:
    out = tmp_path / "q.json"
    assert bench("--methods", "int8", "--evaluations", "kl", "needles", "--out", str(out)) == 0
    (before,) = read_report(out).rows
    assert "copying" not in before
    assert bench("--methods", "int8", "--evaluations", "copying", "--out", str(out)) == 0
    (row,) = read_report(out).rows
    assert row["copying"] and {**row, "copying": 0, "sources": 0} == {**before, "copying": 0, "sources": 0}
    assert list(row["sources"]) == ["copying"]
    assert row["sources"]["copying"]["settings"]["evaluations"] == ["copying"]
    # Other texts, or all of it again: nothing old stays.
    assert bench("--methods", "int8", "--evaluations", "copying", "--offsets", "3", "--out", str(out)) == 0
    (row,) = read_report(out).rows
    assert "kl" not in row and "sources" not in row
    assert bench("--methods", "int8", "--out", str(out)) == 0
    (row,) = read_report(out).rows
    assert {"kl", "needles", "copying"} <= set(row) and "sources" not in row


def test_a_method_that_fails_is_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "broken", METHODS["int8"].__class__("broken", "x", "", _broken))
    out = tmp_path / "q.json"
    assert bench("--methods", "broken", "full", "--out", str(out)) == 1
    run = read_report(out)
    assert [row["method"] for row in run.rows] == ["full"] and "no such luck" in run.errors[0]
    with pytest.raises(RuntimeError, match="no such luck"):
        quality(kvlab.load("tiny", device="cpu"), {"broken": lambda task: _broken(None, task)}, SMALL)


def _broken(lm: object, task: Task) -> Any:
    raise RuntimeError("no such luck")


def test_wrong_usage_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"a": 1}))
    for argv, said in {
        ("--methods", "psychic"): "there is no method 'psychic'",
        ("--family", "psychic"): "there is no family 'psychic'",
        ("--offsets", "0", "--methods", "full"): "offsets must be at least 1",
        ("--methods", "full", "--out", str(other)): "no recorded run of kvlab",
    }.items():
        assert bench(*argv) == 1
        assert said in capsys.readouterr().err
    assert bench("--list", "--family", "reference") == 0
    assert "oracle-25" in capsys.readouterr().out
    with pytest.raises(ValueError, match="evaluations are kl"):
        Settings(evaluations=("vibes",))
    with pytest.raises(ValueError, match="protocol is"):
        Settings(protocol="psychic")


def test_uncoded_bytes_are_those_that_sixteen_bits_would_halve() -> None:
    """Exact entries, sinks, the residual window and page bounds; not codes, scales and positions."""
    lm = kvlab.load("tiny", device="cpu")
    c, ids = lm.config, torch.arange(40)[None]
    entry = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    for knobs, entries in (
        ({}, 40),
        ({"codec": kvlab.Int8()}, 0),
        ({"codec": kvlab.KIVI(4, 8, residual=8, sink=4)}, 4 + 8 + 4 / 2),  # keys wait for a whole block
        ({"eviction": kvlab.SnapKV(24, 8)}, 24),
        ({"selection": kvlab.Quest(8, 2, first=0)}, 40 + 5),  # a page's two bounds are as long as an entry
        ({"store": "static", "capacity": 64}, 40),
    ):  # fmt: skip
        cache = kvlab.Cache(lm, **knobs)
        lm(ids, cache)
        assert uncoded_bytes(cache) == entries * entry, knobs


def test_names_are_taken_once_and_methods_come_in_their_order() -> None:
    with pytest.raises(ValueError, match="there is a method 'full' already"):
        method("full", "x", "", lambda lm, task: {})
    assert [m.name for m in find_methods(["int8", "full"])] == ["full", "int8"]


# These need a head_dim of 64, or weights that were trained for the model.
NOT_TINY = [name for name in METHODS if any(part in name for part in ("rank-", "indexer-", "gate-"))]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_TINY])
def test_every_method_can_be_built(name: str) -> None:
    lm = kvlab.random("tiny-gemma3" if "gemma" in name else "tiny", device="cpu")
    assert METHODS[name].about and METHODS[name].family
    METHODS[name].arguments(lm, Task(1024, 1280, 5))


@pytest.mark.weights
@pytest.mark.parametrize("name", NOT_TINY)
def test_methods_for_the_real_model_can_be_built(name: str, smollm2: Decoder) -> None:
    assert METHODS[name].arguments(smollm2, Task(1024, 1280, 5))


@pytest.mark.parametrize("name", ["rank-k-32", "indexer-25", "gate-25"])
def test_methods_that_do_not_fit_a_model_say_so(name: str) -> None:
    with pytest.raises(ValueError, match="rank|no trained"):
        METHODS[name].arguments(kvlab.random("tiny", device="cpu"), Task(1024, 1280, 5))


# --- intervals ---


def test_t_interval_by_hand() -> None:
    found = t_interval([1, 2, 3, 4, 5])
    assert found.mean == 3 and found.high - 3 == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert math.isnan(t_interval([4.0]).low)
    assert t_interval([0.0] * 20 + [1.0] * 20).high - 0.5 == pytest.approx(
        2.023 * 0.50637 / math.sqrt(40), rel=0.01
    )
    with pytest.raises(ValueError):
        t_interval([])


def test_times_compares_text_by_text() -> None:
    found = times([2, 20, 200.2], [1, 10, 100])
    assert found.mean == pytest.approx(2, rel=1e-3) and found.low > 1.99
    assert times([1, 30, 100], [2, 10, 120]).low < 1 < times([1, 30, 100], [2, 10, 120]).high
    for wrong in (([1], [1, 2]), ([0.0, 1], [1, 1])):
        with pytest.raises(ValueError):
            times(*wrong)


def test_wilson_by_hand() -> None:
    assert wilson(8, 8).low == pytest.approx(0.6756, abs=1e-3) and wilson(8, 8).high == 1
    assert wilson(0, 8).low == 0 and wilson(0, 8).high == pytest.approx(1 - 0.6756, abs=1e-3)
    with pytest.raises(ValueError):
        wilson(3, 2)
