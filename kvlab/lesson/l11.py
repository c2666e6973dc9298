"""Lesson 11: what a translation computes when, word by word, and which source words each word looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kvlab
from kvlab.measure.watch import watch
from kvlab.model.translator import CrossBlock, Encoded, Translator
from kvlab.stores import FREE
from kvlab.translation.decode import LONGEST
from kvlab.translation.languages import LANGUAGES
from kvlab.translation.numbers import spelled

if TYPE_CHECKING:
    from kvlab.model.config import TranslatorConfig

# What is kept, and the store that does it. "nothing" reads the source again for every word, too.
WAYS = {"nothing": "none", "self": "dynamic", "self + cross": "cross"}


@dataclass
class Rows:
    """Rows that went through the first layer of each part, call by call."""

    encoder: list[int] = field(default_factory=list)  # source words that the encoder read
    source: list[int] = field(default_factory=list)  # source rows projected to cross keys and values
    target: list[int] = field(default_factory=list)  # target rows projected to queries, keys and values

    @property
    def totals(self) -> tuple[int, int, int]:
        return sum(self.encoder), sum(self.source), sum(self.target)


@contextmanager
def count_rows(lm: Any) -> Iterator[Rows]:
    """Count what goes through the layers of a translator inside the `with` block."""
    rows, block = Rows(), lm.layers[0]
    counted = {"encoder": lm.encoder[0], "source": block.cross_attn.k_proj, "target": block.self_attn}

    def note(name: str, given: Tensor, _out: Any) -> None:
        getattr(rows, name).append(given.shape[:2].numel())

    with watch(counted, note):
        yield rows


def source_of(lm: Translator, text: str, to: str | None = None) -> Tensor:
    """The ids of a number in words, `[1, words]`."""
    return torch.tensor([lm.tokenizer.encode(text, to)], device=lm.device)


def translate(lm: Translator, text: str, to: str, way: str = "self + cross") -> list[int]:
    """Greedy translation, one word a step; the ids after the start token, the end token included."""
    ids, cache = source_of(lm, text, to), kvlab.Cache(lm, store=WAYS[way])
    source, words = lm.encode(ids), [lm.tokenizer.start(to)]
    while len(words) <= LONGEST and words[-1] != lm.tokenizer.end:
        if way == "nothing" and len(words) > 1:
            source = lm.encode(ids)
        logits = lm(torch.tensor([words[-1:]], device=lm.device), cache, source=source)
        words.append(int(logits[0, -1].argmax()))
    return words[1:]


def work(config: TranslatorConfig, rows: Rows, steps: int | None = None) -> int:
    """Multiply-adds in all matrices, rows times weights, of the first `steps` steps (None: all)."""
    c = config
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = c.hidden_size * (2 * queries + 2 * keys)
    feed_forward = 3 * c.hidden_size * c.intermediate_size
    own = c.num_hidden_layers * (attention + 2 * c.hidden_size * queries + feed_forward)
    once = c.num_hidden_layers * 2 * c.hidden_size * keys
    done = [sum(part[:steps]) for part in (rows.encoder, rows.source, rows.target)]
    heads = len(rows.target[:steps]) * c.hidden_size * c.vocab_size
    return done[0] * c.encoder_layers * (attention + feed_forward) + done[1] * once + done[2] * own + heads


# --- one translation, for figures and the widget ----------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """One translation: its words, what every word looked at, and the rows that each way computed."""

    source: list[str]
    target: list[str]  # the end token is the last
    to: str
    text: str
    maps: Tensor  # [layers, heads, target, source] cross-attention weights
    rows: dict[str, Rows]  # by way
    nbytes: list[tuple[int, int]]  # after each step: own and cross entries, with both cached

    @property
    def map(self) -> Tensor:
        """The first layer, mean over its heads, `[target, source]`."""
        return self.maps[0].mean(dim=0)


def trace(lm: Translator, text: str, to: str) -> Trace:
    """Translate `text` in all three ways; they give the same words."""
    from kvlab.stores.cross import parts

    rows = {}
    for way in WAYS:
        with count_rows(lm) as rows[way]:
            target = translate(lm, text, to, way)
    words, ids = lm.tokenizer, source_of(lm, text, to)
    cache, maps, held = kvlab.Cache(lm, store="cross"), [], []
    source = lm.encode(ids)
    for given in [words.start(to), *target[:-1]]:
        with kvlab.record(lm) as seen:
            lm(torch.tensor([[given]], device=lm.device), cache, source=source)
        maps.append(torch.stack([seen.cross[i][0] for i in sorted(seen.cross)]).cpu())
        held.append((parts(cache).own, parts(cache).cross))
    read, said = ([words.words[i] for i in line] for line in (ids[0].tolist(), target))
    return Trace(read, said, to, words.decode(target, to), torch.cat(maps, dim=2), rows, held)


def trace_number(lm: Translator, number: int, of: str, to: str) -> Trace:
    """The same of a number, spelled by num2words."""
    return trace(lm, spelled(number, of), to)


# --- alignment --------------------------------------------------------------------------------------------

# Words that carry no choice: what comes before them says that they come.
FILLERS = {"and", "et", "und", "hundred", "cent", "cents", "hundert", "thousand", "mille", "tausend", "<end>"}


def small_words(number: int, code: str) -> dict[str, int]:
    """Each single word of a language below 100 and the number that it is, where `number` contains it."""
    language = LANGUAGES[code]
    singles = {language.split(spelled(n, code))[0]: n for n in range(1, 100) if _single(n, code)}
    return {w: singles[w] for w in language.split(spelled(number, code)) if w in singles}


def _single(number: int, code: str) -> bool:
    return len(LANGUAGES[code].split(spelled(number, code))) == 1


def alignment(lm: Translator, numbers: Sequence[int], of: str, to: str) -> tuple[int, int]:
    """How many words look most at the source word of the same value, and how many there are.

    Counted are words for 1 to 99 that occur once on each side.
    """
    hits = total = 0
    for number in numbers:
        here, there = small_words(number, of), small_words(number, to)
        found = trace_number(lm, number, of, to)
        for at, word in enumerate(found.target):
            twins = [w for w, n in here.items() if n == there.get(word)]
            if len(twins) == 1 and found.source.count(twins[0]) == found.target.count(word) == 1:
                total += 1
                hits += int(found.map[at].argmax()) == found.source.index(twins[0])
    return hits, total


def without(source: Encoded, word: int) -> Encoded:
    """The same source, but no query may look at this word of it: its entry counts as padding."""
    ids = source.ids.clone()
    ids[:, word] = FREE
    return Encoded(ids, source.hidden)


def blocks(lm: Translator) -> list[CrossBlock]:
    """The decoder's layers."""
    return [block for block in lm.layers if isinstance(block, CrossBlock)]


def unchanged(a: Encoded, b: Encoded, at: float = 1e-6) -> int:
    """How many of the first rows of two encoded sources are the same."""
    n = min(a.hidden.shape[1], b.hidden.shape[1])
    return int(((a.hidden[:, :n] - b.hidden[:, :n]).abs().amax(-1) < at).sum())
