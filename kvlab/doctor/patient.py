"""One subject under examination: its exact twin, the truth to compare with, and how far apart is too far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.find import find_references
from kvlab.doctor.reference import OnlyFull, Reference
from kvlab.doctor.schedule import Run, Schedule, gaps, run, text, truth
from kvlab.doctor.subject import Subject

# Of the logits' spread. In float64 some libraries still take norms and softmax in float32.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


SMALL = 4_000_000  # weights of a model that a text of some hundred tokens is cheap for
SAMPLE = 24  # tokens on which a reference must agree: longer than a small window


class DoctorError(ValueError):
    """The doctor cannot examine this: it is no model, or it cannot be called."""


@dataclass
class Seen:
    """A run beside the truth."""

    run: Run
    truth: Tensor  # [batch, tokens, vocab]
    gaps: Tensor  # [batch, tokens], max |Δlogit|

    @property
    def worst(self) -> float:
        return float(self.gaps.max())

    def first_wrong(self, tolerance: float) -> int | None:
        wrong = (self.gaps > tolerance).any(dim=0).nonzero()
        return int(wrong[0]) if len(wrong) else None


class Patient:
    """A subject with everything that the probes share.

    `subject` computes in float64 where `native` can be had so, else it is `native` itself.
    """

    def __init__(self, native: Subject, reference: Reference | None = None, exact: bool = True):
        self.native, self.given = native, reference
        self.fed: list[Tensor] = []  # every text so far, the first to the last token, in order
        self.subject, self.exact = self._twin() if exact else (native, False)
        self.vocab = native.vocab_size
        sample = text(self.vocab, self.room(SAMPLE), seed=7)
        own = self._call_full(sample)
        self.reference = self._choose(reference, sample, own)
        logits = own if self.reference is None else self.reference.full(sample)
        if not bool(logits.isfinite().all()):
            raise DoctorError(
                f"the logits of a text of {sample.shape[1]} tokens, passed in one call, are not all numbers "
                "(NaN or infinity): this is no matter of a cache; look for weights that are not loaded, or "
                "for a query that its mask lets see nothing."
            )
        self.scale = float(logits.double().std())
        if not self.scale > 0:
            raise DoctorError(
                "all logits are the same, so nothing can be told apart; are the weights loaded?"
            )
        self.dtype = logits.dtype
        self.reached = 0  # tokens of the longest text that was compared
        self.forgets = False  # set once a long text was found wrong
        self.loses = False  # set once a probe has found that it is lossy, as it is meant to be
        self.tolerance = TOLERANCE.get(self.dtype, 1e-3) * self.scale

    def _twin(self) -> tuple[Subject, bool]:
        """The subject in float64; as it is where it has no such twin, or none that works."""
        one = text(self.native.vocab_size, 1, seed=7)
        try:
            twin = self.native.to(torch.float64)
            finite = bool(twin.step(one)[0].isfinite().all())
        except Exception:  # the native one is examined all the same, and tells its own troubles
            return self.native, False
        if not finite:
            return self.native, False
        self.fed.append(one)
        return twin, True

    def _call_full(self, sample: Tensor) -> Tensor:
        if type(self.subject).full is Subject.full:  # a step from the empty state, like any other
            self.fed.append(sample)
        try:
            logits = self.subject.full(sample).detach()
        except Exception as error:
            raise DoctorError(
                f"{self.native.name} raised {type(error).__name__} on tokens of shape {list(sample.shape)}: "
                f"{_first_line(error)}"
            ) from error
        if logits.shape[:2] != sample.shape or logits.dim() != 3:
            raise DoctorError(
                f"{self.native.name} returned logits of shape {list(logits.shape)} for tokens of shape "
                f"{list(sample.shape)}; the doctor needs [batch, tokens, vocab], a row for every new token."
            )
        return logits

    def _choose(self, given: Reference | None, sample: Tensor, own: Tensor) -> Reference | None:
        """The reference that agrees with the subject's own full recompute, where it has one of its own."""
        has_own = type(self.subject).full is not Subject.full
        candidates = find_references(self.subject)
        if given is not None:
            candidates = [given.to(torch.float64) if self.exact else given, *candidates]
        for one in candidates:
            try:
                logits = one.full(sample)
            except Exception:  # whatever keeps it from answering: it is of no use here
                continue
            near = TOLERANCE.get(logits.dtype, 1e-3) * float(logits.double().std())
            same = logits.shape == own.shape and float(gaps(logits, own).max()) < near
            if same or (one is candidates[0] and not has_own):
                return one
        return None

    def in_own_dtype(self) -> Patient:
        """The same subject without the rerun in float64."""
        twin = Patient(self.native, self.given, exact=False)
        twin.loses = self.loses
        return twin

    def in_float32(self) -> Patient | None:
        """The same subject in float32; None: it cannot be had so."""
        try:
            twin = Patient(self.native.to(torch.float32), exact=False)
        except NotImplementedError:
            return None
        twin.loses = self.loses
        return twin

    @property
    def truth_from(self) -> Reference:
        """The model where it was found; else the subject's own full recompute."""
        return self.reference or OnlyFull(self.subject.full, self.vocab)

    @property
    def cheap(self) -> bool:
        """Whether long texts cost little: the model is small, or not to be had and so not to be judged."""
        model = None if self.reference is None else self.reference.model
        return model is None or sum(p.numel() for p in model.parameters()) <= SMALL

    def room(self, length: int) -> int:
        """`length`, or less where a text may not be so long."""
        return length if self.native.longest is None else min(length, self.native.longest)

    def text(self, length: int, seed: int, batch: int = 1) -> Tensor:
        return text(self.vocab, length, seed, batch)

    def run(self, schedule: Schedule, state: Any = None) -> Run:
        """Pass a text to the subject, and remember it: a cache that is not cleared still holds it."""
        if state is None and schedule.real is None:
            self.fed.append(schedule.tokens)
        return run(self.subject, schedule, state)

    def expect(self, schedule: Schedule) -> Tensor:
        """What should come out, `[batch, tokens, vocab]`: full recompute of each text alone.

        Of a cache that is known to lose something: its own steps, each text alone from the empty state.
        """
        return _alone(self.subject, schedule) if self.loses else truth(self.truth_from.full, schedule)

    def see(self, schedule: Schedule) -> Seen:
        """Run a schedule from the empty state and compare it with what should come out."""
        return self.compare(self.run(schedule))

    def compare(self, done: Run) -> Seen:
        self.reached = max(self.reached, done.schedule.total)
        expected = self.expect(done.schedule)
        return Seen(done, expected, gaps(done.logits.to(expected.dtype), expected, done.schedule.real))

    def wrong(self, seen: Seen) -> bool:
        return seen.worst > self.tolerance

    def size(self, distance: float) -> str:
        """A distance for people: in logits, and beside their spread."""
        if distance == float("inf"):
            return "infinity (some are not numbers)"
        return f"{distance:.2g} (the logits' standard deviation is {self.scale:.2g})"


def _alone(subject: Subject, schedule: Schedule) -> Tensor:
    rows = []
    masks = [None] * len(schedule.tokens) if schedule.real is None else schedule.real
    for tokens, real in zip(schedule.tokens, masks, strict=True):
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
        sizes = [int(part.sum()) for part in real.split(schedule.sizes)]
        logits = run(subject, Schedule(tokens[real][None], tuple(size for size in sizes if size))).logits[0]
        row = logits.new_zeros(len(tokens), logits.shape[-1])
        row[real] = logits
        rows.append(row)
    return torch.stack(rows)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
