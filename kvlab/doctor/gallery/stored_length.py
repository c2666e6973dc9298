"""The number of entries held is taken for the number of tokens seen."""

import torch
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.tape import Tape

SINKS, RECENT = 4, 8  # entries that stay: few, so that a short text shows it


def evict(cache: Tape) -> None:
    held = range(cache.length)
    if cache.length > SINKS + RECENT:
        cache.keep([*held[:SINKS], *held[-RECENT:]])


def wrong(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.length + torch.arange(tokens.shape[1])
    logits = cache(tokens, positions)
    evict(cache)
    return logits


def right(cache: Tape, tokens: Tensor) -> Tensor:
    positions = cache.seen + torch.arange(tokens.shape[1])
    logits = cache(tokens, positions)
    evict(cache)
    return logits


MISUSE = Misuse(
    "positions-from-stored-length",
    "Positions are read off the length of the cache",
    symptom="All is well until entries are evicted; from then on every new token lands at the same position, "
    "and the text stalls or repeats itself.",
    why="The length of the cache is the next position only while the cache holds every token. After an "
    "eviction it stands still, yet the kept keys were rotated to their true places. Padding counts in it "
    "too.",
    fix="Count the tokens seen apart from the entries held, and take positions from that count.",
    wrong_code=wrong,
    right_code=right,
    exact=False,  # an eviction loses something, at right positions too
)
