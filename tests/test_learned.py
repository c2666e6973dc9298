"""Learned selections: what they score, what they train on, and how they behave in a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import CONFIG, ids, logits_of, model, same

from kvlab import Cache, CacheError, SinkRecent, record
from kvlab.learned import Recipe, capture, held_out_windows, mass_by_layer, train
from kvlab.learned.capture import HELD_OUT, TRAINING
from kvlab.learned.cli import take
from kvlab.learned.train import divergence, untrained
from kvlab.measure.quality_texts import corpus
from kvlab.model import Decoder
from kvlab.selection import Gate, Indexer, Pick, Selection, gate, indexer
from kvlab.selection.trained import checkpoint, read_recipe, read_weights, save_weights


def lesson(tokens: int = 40, seed: int = 0):
    lm = model(seed)
    text = ids(1, tokens)[0]
    return lm, capture(lm, text, torch.arange(tokens - 12, tokens))


def weights_for(recipe: Recipe):
    return {name: weight.double() for name, weight in untrained(recipe, lesson()[1]).items()}


INDEXER, GATE = (
    Recipe("indexer", steps=60, heads=2, dim=8, learning_rate=1e-2, width=0.3),
    Recipe("gate", steps=60, dim=6, page=4, learning_rate=3e-3, width=1.0),
)


class TestCapture:
    def test_is_what_the_model_did(self) -> None:
        lm, seen = lesson()
        text = ids(1, 40)
        with record(lm) as rec:
            lm(text)
        kv_heads, group = CONFIG.num_key_value_heads, CONFIG.num_attention_heads // CONFIG.num_key_value_heads
        for layer in range(CONFIG.num_hidden_layers):
            by_group = rec.attention[layer][0].unflatten(0, (kv_heads, group)).sum(1)[:, -12:]
            assert same(seen.attention[layer], by_group)
            assert same(seen.queries[layer], rec.queries[layer][0].transpose(0, 1).flatten(1)[-12:])
            assert same(seen.keys[layer], rec.keys[layer][0].transpose(0, 1).flatten(1))
        assert seen.seen.sum(dim=1).tolist() == list(range(29, 41))


class TestScores:
    def test_an_indexer_by_hand(self) -> None:
        """Σ_j w_j · ReLU(q_j · k): one query, one layer, written as loops."""
        weights = {name: weight[0] for name, weight in weights_for(INDEXER).items()}
        _, seen = lesson()
        q, keys = seen.queries[0, 0], seen.keys[0]
        found = indexer.scores(q[None], indexer.small_keys(keys, weights), weights)[0]
        small = (q @ weights["query"]).view(2, 8)
        for s in (0, 7, 30):
            k = keys[s] @ weights["key"]
            by_hand = sum(
                float(q @ weights["weight"][:, j]) * max(0.0, float(small[j] @ k)) for j in range(2)
            )
            assert found[s].item() == pytest.approx(by_hand, abs=1e-9)

    def test_pools_leave_out_what_is_no_token(self) -> None:
        keys = torch.arange(12.0).view(1, 1, 6, 2)
        real = torch.tensor([[[True, True, False, False, False, False]]])
        found = gate.pooled(keys, real, 3)
        assert found[0, 0].tolist() == [[2, 3, 0, 1, 1, 2], [0] * 6]


class TestTraining:
    @pytest.mark.parametrize("recipe", [INDEXER, GATE], ids=["indexer", "gate"])
    def test_comes_nearer_to_the_attention(self, recipe: Recipe) -> None:
        _, seen = lesson()
        weights, rows = weights_for(recipe), torch.arange(12)
        before = divergence(weights, recipe, seen, rows).item()
        losses = list(train(weights, recipe, [seen]))
        after = divergence(weights, recipe, seen, rows).item()
        assert len(losses) == recipe.steps and after < 0.8 * before
        assert not any(weight.requires_grad for weight in weights.values())

    def test_is_the_same_every_time(self) -> None:
        _, seen = lesson()
        first, second = (list(train(weights_for(INDEXER), INDEXER, [seen])) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [({"kind": "oracle"}, "indexer"), ({"steps": 0}, "1 or more"), ({"dim": 0}, "1 or more")],
    )
    def test_a_wrong_recipe_is_refused(self, wrong, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Recipe(**wrong)


class TestMass:
    def test_nothing_holds_more_than_the_oracle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from kvlab.learned import evaluate

        monkeypatch.setattr(evaluate, "FROM", 0)
        _, seen = lesson()
        trained = {"indexer": weights_for(INDEXER), "gate": weights_for(GATE)}
        held = mass_by_layer([seen], (0.25, 1.0), trained, page=4)
        for name in ("indexer", "sinks + recent"):
            pairs = zip(held[name][0.25], held["oracle"][0.25], strict=True)
            assert all(mine <= best + 1e-9 for mine, best in pairs)
        for name in ("oracle", "oracle by head", "indexer"):
            assert held[name][1.0] == pytest.approx([1.0] * 3)
        by_head = zip(held["oracle by head"][0.25], held["oracle"][0.25], strict=True)
        assert all(best >= shared - 1e-9 for best, shared in by_head)


class TestInACache:
    @pytest.mark.parametrize("make", [
        lambda k: Indexer(k, weights_for(INDEXER)), lambda k: Gate(-(-k // 4), weights_for(GATE), page_size=4)
    ], ids=["indexer", "gate"])  # fmt: skip
    def test_reading_all_is_dense_and_reading_less_is_not(self, make) -> None:
        lm, text = model(), ids(2, 30)
        wanted = torch.stack([logits_of(row) for row in text.tolist()])
        for k, exact in ((40, True), (4, False)):
            cache = Cache(lm, selection=make(k))
            first = lm(text[:, :20], cache)
            rest = torch.cat([first, *(lm(text[:, i : i + 1], cache) for i in range(20, 30))], 1)
            assert same(rest, wanted) == exact

    def test_reads_what_it_ranks_highest(self) -> None:
        lm, text = model(), ids(1, 24)
        weights = weights_for(INDEXER)
        cache = Cache(lm, selection=Indexer(5, weights))
        lm(text[:, :23], cache)
        with record(lm) as rec:
            lm(text[:, 23:], cache)
        layer = {name: weight[0] for name, weight in weights.items()}
        keys = rec.keys[0][0].transpose(0, 1).flatten(1)
        q = rec.queries[0][0, :, 0].flatten()[None]
        best = indexer.scores(q, indexer.small_keys(keys, layer), layer)[0].topk(5).indices.sort().values
        assert torch.equal(rec.read[0][0, 0, 0].nonzero().flatten(), best)

    def test_bytes_count_small_keys_and_weights(self) -> None:
        lm, weights = model(), weights_for(INDEXER)
        plain, cache = Cache(lm), Cache(lm, selection=Indexer(5, weights))
        for each in (plain, cache):
            lm(ids(2, 10), each)
        held = sum(weight.numel() * 8 for weight in weights.values())
        assert cache.nbytes - plain.nbytes == 3 * 2 * 10 * 8 * 8 + held  # layers, batch, tokens, dim, bytes

    def test_what_does_not_fit_is_refused(self) -> None:
        lm = model()
        with pytest.raises(CacheError, match="one without the other"):
            Cache(lm, selection=Indexer(4, weights_for(INDEXER)), eviction=SinkRecent(2, 3))
        few = {name: weight[:2] for name, weight in weights_for(INDEXER).items()}
        with pytest.raises((CacheError, ValueError), match="trained for a model of 2 layers"):
            Cache(lm, selection=Indexer(4, few))
        with pytest.raises(ValueError, match="k >= 1"):
            Indexer(0, weights_for(INDEXER))
        with pytest.raises(ValueError, match="pages >= 1"):
            Gate(0, weights_for(GATE))

    def test_a_model_without_weights_is_named(self) -> None:
        with pytest.raises(ValueError, match="no trained indexer for gpt-9"):
            Indexer(4, "gpt-9")

    def test_weights_are_written_and_read(self, tmp_path: Path) -> None:
        weights = weights_for(GATE)
        save_weights(weights, tmp_path / "g.safetensors", {"steps": 1})
        found = read_weights("gate", tmp_path / "g.safetensors")
        assert all(torch.allclose(found[name], weight.float(), rtol=1e-2, atol=1e-3)
                   for name, weight in weights.items())  # fmt: skip
        assert (tmp_path / "g.json").exists()


class TestPackaged:
    def test_what_comes_with_the_package_is_as_its_recipe_says(self) -> None:
        """Size, shapes, and the commit it was trained at."""
        total = 0
        for kind in ("indexer", "gate"):
            made = read_recipe(kind, "smollm2-135m")
            weights = read_weights(kind, "smollm2-135m")
            assert sum(weight.numel() for weight in weights.values()) == made["parameters"]
            assert len(weights["key"]) == 30 and not made["commit"].endswith("dirty")
            total += checkpoint(kind, "smollm2-135m").stat().st_size
        assert checkpoint("indexer", "smollm2-135m").stat().st_size < 6e6 and total < 6.1e6

    @pytest.mark.weights
    def test_holds_on_held_out_text_what_was_recorded(self, smollm2: Decoder) -> None:
        """One held-out window of the four, measured anew."""
        seen = take(smollm2, next(held_out_windows(smollm2)))
        trained = {kind: read_weights(kind, "smollm2-135m") for kind in ("indexer", "gate")}
        held = mass_by_layer([seen], (0.1,), trained)
        means = {name: sum(by[0.1]) / 30 for name, by in held.items()}
        for kind in trained:
            recorded = read_recipe(kind, "smollm2-135m")["held_out_mass"][kind]["0.1"]
            assert means[kind] == pytest.approx(sum(recorded) / 30, abs=0.04)
        assert means["sinks + recent"] + 0.1 < means["indexer"] < means["oracle"]
        assert means["Quest"] < means["gate"] < means["indexer"]

    @pytest.mark.weights
    def test_no_text_is_trained_on_and_judged_by(self, smollm2: Decoder) -> None:
        """Windows for training, held-out ones and those of the quality bench share no token of the corpus."""
        n = len(smollm2.tokenizer.encode(corpus()))
        taught = [(int(share * n), 1024) for share in TRAINING]
        judged = [(int(share * n), 1024) for share in HELD_OUT] + [(i * (n // 5), 1280) for i in range(5)]
        assert not [(a, b) for a, m in taught for b, k in judged if a < b + k and b < a + m]

    @pytest.mark.weights
    def test_decodes_with_it_nearly_as_with_everything(self, smollm2: Decoder) -> None:
        text = next(held_out_windows(smollm2, 400)).unsqueeze(0)
        gaps = {}
        for name, selection in (("indexer", Indexer(40)), ("first", SinksOnly(40))):
            full, cache = Cache(smollm2), Cache(smollm2, selection=selection)
            for each in (full, cache):
                smollm2(text[:, :-6], each, last_only=True)
            steps = [text[:, i : i + 1] for i in range(394, 400)]
            log, mine = (
                torch.cat([smollm2(ids, each) for ids in steps]).log_softmax(-1) for each in (full, cache)
            )
            gaps[name] = float((log.exp() * (log - mine)).sum(-1).mean())
        assert gaps["indexer"] < gaps["first"] / 4, gaps


class SinksOnly(Selection):
    """Reads the first entries of the text: what an untrained choice may look like."""

    def __init__(self, k: int):
        self.k = k

    def choose(self, queries, view, visible, scale, step) -> Pick:
        return Pick(torch.arange(self.k).view(1, 1, -1))
