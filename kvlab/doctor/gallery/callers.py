"""A right step, used wrongly: what a program keeps between two texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kvlab.cache import Cache
from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.scenes import New, alone, go_on, second_question, second_text

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Caches = dict[Any, Cache]


class Caller:
    """A program with a model, and with what it keeps: `caller(ids [1, tokens], new) -> [new, vocab]`."""

    def __init__(self, lm: Decoder, code: Callable[..., Tensor], keep: Callable[[Decoder], Any]):
        self.lm, self.code, self.kept = lm, code, keep(lm)

    def __call__(self, ids: Tensor, new: New) -> Tensor:
        return self.code(self.lm, self.kept, ids, new)


def with_caches(lm: Decoder, code: Callable[..., Tensor]) -> Caller:
    """A program that keeps the caches of earlier prompts."""
    return Caller(lm, code, lambda _: {})


def with_static_cache(lm: Decoder, code: Callable[..., Tensor]) -> Caller:
    """A program that allocates one cache and uses it for every text."""
    return Caller(lm, code, lambda lm: Cache(lm, store="static", capacity=256))


def answer(lm: Decoder, ids: Tensor, cache: Cache, new: New) -> Tensor:
    """Logits `[new, vocab]` after `ids`, which come after what the cache holds."""
    return go_on(lambda tokens, cache: (lm(tokens, cache), cache), lm(ids, cache), cache, new)


def find(lm: Decoder, caches: Caches, key: Any, prefix: Tensor) -> Cache:
    """The cache under `key`; it is filled with `prefix [1, tokens]` if there is none."""
    if key not in caches:
        caches[key] = Cache(lm)
        lm(prefix, caches[key])
    return caches[key]


def same_tokens(ids: Tensor) -> tuple[int, ...]:
    """A key that only the same tokens have."""
    return tuple(ids[0].tolist())


def found_by_length(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    prefix, last = ids[:, :-1], ids[:, -1:]
    cache = find(lm, caches, prefix.shape[1], prefix)
    return answer(lm, last, cache.fork(), new)


def found_by_tokens(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    prefix, last = ids[:, :-1], ids[:, -1:]
    cache = find(lm, caches, same_tokens(prefix), prefix)
    return answer(lm, last, cache.fork(), new)


ANOTHER_PROMPT = Misuse(
    "another-prompts-cache",
    "A cache of another prompt is taken for this one's",
    symptom="Text that goes with another prompt; this one might never have been said.",
    why="The cache is the context. It was looked up by something that two prompts share (here their length), "
    "and only the tokens it does not cover were passed: the model has never seen this prompt.",
    fix="Use a cache only for a prompt that begins with exactly its tokens: compare the ids.",
    wrong_code=found_by_length,
    right_code=found_by_tokens,
    who="caller",
    scene=second_text,
    make=with_caches,
)


def fed_again(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    cache = find(lm, caches, same_tokens(ids), ids).fork()
    return answer(lm, ids, cache, new)


def last_token_again(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    cache = find(lm, caches, same_tokens(ids), ids).fork()
    cache.crop(ids.shape[1] - 1)
    return answer(lm, ids[:, -1:], cache, new)


COVERS_PROMPT = Misuse(
    "cache-covers-prompt",
    "The prompt is passed to a cache that already covers it",
    symptom="Fluent text with other words; now and then it takes the prompt for said twice.",
    why="Nothing is left to pass, yet logits are wanted, so the prompt goes in once more, behind itself.",
    fix="Take the last token back from the cache and pass that one alone.",
    wrong_code=fed_again,
    right_code=last_token_again,
    who="caller",
    scene=alone,
    make=with_caches,
)


def not_reset(lm: Decoder, cache: Cache, ids: Tensor, new: New) -> Tensor:
    return answer(lm, ids, cache, new)


def reset(lm: Decoder, cache: Cache, ids: Tensor, new: New) -> Tensor:
    cache.reset()
    return answer(lm, ids, cache, new)


NOT_RESET = Misuse(
    "static-not-reset",
    "A static cache is used again without a reset",
    symptom="The first text is right. Later ones know what was said before, and the capacity runs out early.",
    why="The memory is allocated once and meant to be used again, but its entries stay until it is told that "
    "a new text begins.",
    fix="Call `cache.reset()` before each new text.",
    wrong_code=not_reset,
    right_code=reset,
    who="caller",
    scene=second_text,
    make=with_static_cache,
)


def taken(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    prefix, question = ids.tensor_split(2, dim=1)
    cache = find(lm, caches, same_tokens(prefix), prefix)
    return answer(lm, question, cache, new)


def forked(lm: Decoder, caches: Caches, ids: Tensor, new: New) -> Tensor:
    prefix, question = ids.tensor_split(2, dim=1)
    cache = find(lm, caches, same_tokens(prefix), prefix).fork()
    return answer(lm, question, cache, new)


SHARED_PREFIX = Misuse(
    "shared-prefix-in-place",
    "A shared prefix is extended in place",
    symptom="The first question after a common prefix is answered rightly; the next one as if it were asked "
    "after the first.",
    why="A cache grows when it is used. Without a copy the question and its answer become part of the prefix "
    "that everyone shares.",
    fix="Fork the prefix for each question, or crop it back afterwards.",
    wrong_code=taken,
    right_code=forked,
    who="caller",
    scene=second_question,
    make=with_caches,
)
