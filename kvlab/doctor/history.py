"""A text that starts from nothing, and yet finds an earlier one: which one, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kvlab.doctor.explain import Explained, explain
from kvlab.doctor.patient import Patient, Seen
from kvlab.doctor.theories import Theory, after, instead, uncleared

MOST = 6  # earlier texts to try, the latest first


def explained_by_past(patient: Patient, seen: Seen, earlier: Sequence[Tensor]) -> Explained | None:
    """The earlier text that explains a run from the empty state; `earlier`: texts `[1, n]`, in order."""
    single = [old for old in earlier if len(old) == 1]
    for old in _candidates(single):
        found = explain(patient, uncleared(old), [seen])
        if found is not None:
            return found
    first = seen.run.schedule.sizes[0]
    return explain(patient, _taken(single, first), [seen])


def _candidates(texts: list[Tensor]) -> Iterator[Tensor]:
    """The last text, the one before, …; and all of them, one behind the other."""
    latest = texts[::-1][:MOST]
    yield from latest
    for count in range(2, len(texts) + 1):
        if count <= MOST or count == len(texts):
            yield torch.cat(texts[-count:], dim=1)


def _taken(texts: list[Tensor], first: int) -> Iterator[Theory]:
    """Another prompt's entries, in place of this one's or before it."""
    name = "another-prompts-cache"
    for old in texts[::-1][:MOST]:
        yield Theory(
            name, "its first call finds the entries of an earlier prompt in place of its own", instead(old)
        )
        for size in range(1, old.shape[1]):
            yield Theory(
                name, f"it goes on behind the first {size} tokens of an earlier prompt", after(old[:, :size])
            )
