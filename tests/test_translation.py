"""The translator: its words, what it is trained on, what it says, and what it refuses."""

from __future__ import annotations

import json
import random
from itertools import permutations
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab import cli
from kvlab.model.translator import Translator
from kvlab.translation import LANGUAGES, LARGEST, TranslationError, Words
from kvlab.translation.checkpoint import PACKAGED, load, read_record, save
from kvlab.translation.numbers import ALWAYS_SEEN, held_out, spelled, split
from kvlab.translation.pairs import IGNORED, draw, draw_number
from kvlab.translation.train import (
    Recipe,
    config,
    exact_match,
    held_out_sample,
    train,
    trainable,
    untrained,
)
from kvlab.zoo.errors import ModelError

DIRECTIONS = list(permutations(("en", "fr", "de"), 2))


@pytest.fixture(scope="module")
def translator() -> Translator:
    return kvlab.load("translator", device="cpu")


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(["en", "fr", "de"])


# --- words ----------------------------------------------------------------------------------------------


def some_numbers(count: int = 1200) -> list[int]:
    return [*range(301), *random.Random(0).sample(range(301, LARGEST + 1), count)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_num2words_spells_what_the_words_can_split_and_join(code: str) -> None:
    language = LANGUAGES[code]
    for number in some_numbers():
        text = spelled(number, code)
        parts = language.split(text)
        assert set(parts) <= set(language.words) and language.join(parts) == text
        assert language.number.fullmatch(" ".join(parts)), f"{text} is a number"


def value(parts: list[str], code: str) -> int:
    """What the words add up to; only a right order makes them spell it again."""
    worth = {"and": 0, "et": 0, "und": 0, "hundred": 100, "cent": 100, "cents": 100, "hundert": 100}
    worth |= {"thousand": 1000, "mille": 1000, "tausend": 1000, "vingts": 20, "ein": 1}
    for n in range(100):
        if len(one := LANGUAGES[code].split(spelled(n, code))) == 1:
            worth.setdefault(one[0], n)
    total = group = 0
    for before, word in zip(["", *parts], parts, strict=False):
        if word in ("thousand", "mille", "tausend"):
            total, group = total + (group or 1) * 1000, 0
        elif worth[word] == 100:
            group = (group or 1) * 100
        elif word in ("vingt", "vingts") and before == "quatre":
            group += 80 - 4
        else:
            group += worth[word]
    return total + group


@pytest.mark.parametrize("code", LANGUAGES)
def test_nothing_else_passes_for_a_number(code: str) -> None:
    """Words of real numbers, one lost, doubled, swapped or replaced: refused, or the spelling of another."""
    language, rng, passed = LANGUAGES[code], random.Random(1), 0
    for number in some_numbers(700):
        parts = language.split(spelled(number, code))
        at = rng.randrange(len(parts))
        for changed in (
            parts[:at] + parts[at + 1 :],
            parts[:at] + [parts[at]] + parts[at:],
            parts[:at] + [rng.choice(language.words)] + parts[at + 1 :],
            rng.sample(parts, len(parts)),
        ):
            if language.number.fullmatch(" ".join(changed)):
                passed += 1
                assert language.join(changed) == spelled(value(changed, code), code)
    assert passed > 100, "the changes never made a number"


@pytest.mark.parametrize("code", LANGUAGES)
def test_larger_numbers_are_refused(code: str) -> None:
    for number in (100_000, 100_001, 123_456, 200_000, 999_999, 1_000_000, 2_000_031):
        parts = LANGUAGES[code].split(spelled(number, code))
        assert not LANGUAGES[code].number.fullmatch(" ".join(parts))


def test_german_is_split_into_its_words(words: Words) -> None:
    assert words.source("zweiundvierzig") == ["zwei", "und", "vierzig"]
    assert LANGUAGES["de"].join(["zwei", "und", "vierzig"]) == "zweiundvierzig"
    assert len(words) < 100 and len(set(words.words)) == len(words)


# --- what is learnt from --------------------------------------------------------------------------------


def test_one_number_in_twenty_is_never_seen() -> None:
    seen, unseen = split()
    assert sorted([*seen, *unseen]) == list(range(LARGEST + 1))
    assert 4_700 < len(unseen) < 5_300 and min(unseen) > ALWAYS_SEEN
    rng = random.Random(0)
    drawn = [draw_number(rng) for _ in range(20_000)]
    assert not any(map(held_out, drawn))
    assert sum(n < 1000 for n in drawn) > 4_000, "short numbers are drawn more often than they occur"
    assert held_out_sample(500) == held_out_sample(1000)[:500] and set(held_out_sample()) <= set(unseen)


def test_a_batch_teaches_the_next_word(words: Words) -> None:
    pairs = draw(words, random.Random(3), 8)
    assert pairs.source.shape == pairs.mask.shape and pairs.given.shape == pairs.wanted.shape
    for given, wanted in zip(pairs.given.tolist(), pairs.wanted.tolist(), strict=True):
        real = [token for token in wanted if token != IGNORED]
        assert real[-1] == words.end and given[1 : len(real)] == real[:-1]
        assert words.words[given[0]] in ("<en>", "<fr>", "<de>")


def short(steps: int = 4, seed: int = 0) -> tuple[Translator, list[float]]:
    words = Words(["en", "fr"])
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    lm = untrained(config(words).replace(hidden_size=16, intermediate_size=16, **heads), words, seed)
    return lm, list(train(lm, Recipe(("en", "fr"), seed, steps, batch=16, warm_up=2, learning_rate=1e-2)))


def test_training_is_seeded_and_learns() -> None:
    lm, losses = short(steps=40)
    assert losses[-1] < losses[0] - 1.0
    assert losses[:4] != short(seed=1)[1]
    again, repeated = short(steps=40)
    assert repeated == losses and all(
        torch.equal(a, b) for a, b in zip(lm.parameters(), again.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in lm.parameters())


def test_every_weight_is_trained() -> None:
    (before, _), (after, _) = short(steps=1), short(steps=3)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        rows = (old != new).flatten(1).any(1) if old.dim() > 1 else old != new
        assert rows.any(), f"{name} was not trained"
    for block in after.blocks():
        queries = block.self_attn.q_proj.weight
        assert torch.equal(block.self_attn.qkv[: len(queries)], queries), "the parts follow the whole"
    count = sum(t.numel() for t in trainable(after))
    assert count == sum(p.numel() for p in after.parameters())


# --- the shipped translator -----------------------------------------------------------------------------


@pytest.mark.parametrize("of, to", DIRECTIONS)
def test_numbers_never_seen_in_training_are_translated(translator: Translator, of: str, to: str) -> None:
    assert exact_match(translator, of, to, held_out_sample(500)) >= 0.99


@pytest.mark.parametrize("of, to", DIRECTIONS)
def test_small_numbers_are_translated(translator: Translator, of: str, to: str) -> None:
    assert exact_match(translator, of, to, list(range(ALWAYS_SEEN + 1))) == 1


def test_the_record_says_how_it_was_made(translator: Translator) -> None:
    record = read_record()
    scores = record["held_out_exact_match"]
    assert set(scores) == {f"{of}-{to}" for of, to in DIRECTIONS} and min(scores.values()) >= 0.99
    assert record["held_out_numbers"] >= 1000
    assert record["parameters"] == sum(p.numel() for p in translator.parameters()) == 898_176
    losses = [lost for _, lost in record["loss"]]
    assert losses[0] > 1 > 0.01 > losses[-1] and record["loss"][-1][0] == record["recipe"]["steps"]
    assert Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in record["recipe"].items()})
    assert PACKAGED.stat().st_size <= 5_000_000
    assert {"date", "machine", "versions", "commit", "command", "seconds"} <= record.keys()


def test_a_text_a_batch_and_a_mixture(translator: Translator) -> None:
    assert translator.translate("three hundred and forty-two", to="fr") == "trois cent quarante-deux"
    assert translator.translate("Three Hundred and forty two", to="de") == "dreihundertzweiundvierzig"
    mixed = ["null", "soixante et onze", "twelve thousand, five hundred and seventy-six", "six"]
    assert translator.translate(mixed[:2] + ["sechs"], to="en") == ["zero", "seventy-one", "six"]
    said = ["einundsiebzig", "zwölftausendfünfhundertsechsundsiebzig", "sechs"]
    assert translator.translate(mixed[1:], to="de") == said
    assert translator.translate([], to="de") == []


def test_all_stores_say_the_same(translator: Translator) -> None:
    texts = [spelled(n, of) for n, of in ((7, "en"), (99_999, "fr"), (1_100, "en"))]
    wanted = [spelled(n, "de") for n in (7, 99_999, 1_100)]
    for store in ("none", "dynamic", "cross", kvlab.Static(capacity=16, batch=3)):
        assert translator.translate(texts, "de", store) == wanted


@pytest.mark.parametrize(
    "text, to, message",
    [
        ("two", "es", r"does not know 'es'; it knows 'en' \(English\), 'fr' \(French\), 'de' \(German\)\."),
        ("one million", "fr", "'million' is no word of the translator; it knows the numbers from 0 to"),
        ("one hundred thousand", "fr", "'one hundred thousand' is no number for the translator"),
        ("forty-two cats", "de", "'cats' is no word"),
        ("two forty", "de", "'two forty' is no number for .*written as in 'three hundred and forty-two'"),
        ("three hundred forty-two", "de", "is no number for"),
        ("deux un", "en", "written as in 'trois cent quarante-deux'"),
        ("zweiundhundert", "en", "written as in 'dreihundertzweiundvierzig'"),
        ("", "fr", "'' is no number"),
        ("342", "fr", "'342' is no word"),
        ("quarante-deux", "fr", "'quarante-deux' is French already; choose another `to`"),
    ],
)
def test_what_it_does_not_know_is_refused(translator: Translator, text: str, to: str, message: str) -> None:
    with pytest.raises(TranslationError, match=message):
        translator.translate(text, to)
    with pytest.raises(TranslationError, match=message):
        translator.translate([text, "two"], to)


# --- files and the command ------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    lm, _ = short(steps=1)
    save(lm, tmp_path / "own.safetensors", {"note": "mine"})
    again = load(tmp_path / "own.safetensors")
    assert read_record(tmp_path / "own.safetensors")["note"] == "mine"
    assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), again.parameters(), strict=True))
    assert again.config == lm.config and again.tokenizer.words == lm.tokenizer.words
    record = json.loads((tmp_path / "own.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps(record | {"words": ["other"]}))
    with pytest.raises(ModelError, match="trained on other words"):
        load(tmp_path / "own.safetensors")
    with pytest.raises(ModelError, match=r"nowhere\.json cannot be read; .*--out"):
        load(tmp_path / "nowhere.safetensors")


def test_the_command_trains_tests_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.safetensors"
    arguments = "--languages en de --steps 2 --batch 4 --held-out 3 --out".split()
    assert cli.main(["train-translation", *arguments, str(out)]) == cli.OK
    said = capsys.readouterr().out
    assert "en-de: 0.00% of 3 numbers never seen in training" in said and "MB after" in said
    record = read_record(out)
    assert record["languages"] == ["en", "de"] and [step for step, _ in record["loss"]] == [2]
    assert load(out).tokenizer.start("de") == 2


def test_the_command_refuses_what_cannot_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-translation", "--languages", "en"]) == cli.FAILED
    assert "choose two or more of 'en' (English)" in capsys.readouterr().err
    assert cli.main(["train-translation", "--batch", "0"]) == cli.FAILED
    assert "must be 1 or more" in capsys.readouterr().err
