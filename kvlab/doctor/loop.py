"""A caller's own loop: a right step can still be used wrongly, and from one text to the next.

The loop is `program(ids [1, tokens], new) -> logits [new, vocab]`, where `new` lists the tokens to go on
with; row i is what token i would be chosen from. It is called for several texts, and each answer is
compared with full recompute: of the text, and of everything else that its cache may have held instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.ears import Heard, listening
from kvlab.doctor.explain import explain
from kvlab.doctor.graphs import Watch
from kvlab.doctor.names import UNCLEARED, fix_of
from kvlab.doctor.patient import TOLERANCE, DoctorError, Patient, Seen
from kvlab.doctor.reference import Reference
from kvlab.doctor.report import Finding, Report
from kvlab.doctor.schedule import Run, Schedule, gaps, singles
from kvlab.doctor.subject import Subject
from kvlab.doctor.theories import MASKS, POSITIONS, TOKENS

PROMPT, NEW = 8, 4
Program = Callable[[Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Said:
    """One call of the loop: prompt `[1, tokens]`, the new tokens, logits `[new, vocab]`, what was heard."""

    ids: Tensor
    new: list[int]
    logits: Tensor  # detached
    heard: Heard
    graph: str = ""  # who kept a graph, in words

    @property
    def fed(self) -> Tensor:
        """All that a right loop passes, `[1, tokens + new - 1]`: the last new token is never passed."""
        return torch.cat((self.ids, torch.tensor([self.new[:-1]], dtype=torch.int64)), dim=1)


class _Known(Subject):
    """A stand-in for the model's own step, so that theories can be tried on a loop."""

    def __init__(self, reference: Reference):
        self.reference, self.vocab_size, self.name = reference, reference.vocab_size, "loop"

    def step(self, tokens: Tensor, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def full(self, tokens: Tensor) -> Tensor:
        return self.reference.full(tokens)


def check_loop(program: Program, reference: Reference, name: str) -> Report:
    """Call a loop for four texts and compare.

    Raises:
        DoctorError: it raised, or gave logits of another shape.
    """
    patient = Patient(_Known(reference), reference)
    report = Report(name)
    said: list[Said] = []
    for text in _texts(patient):
        said.append(_call(program, patient, *text))
        if len(said) == 1 and said[0].graph:
            report.findings.append(_kept(said[0].graph))
        elif len(said) == 1:
            report.passed["gradients"] = "no graph is left when the loop returns"
        wrong = _examined(patient, said)
        if wrong is not None:
            report.findings.append(wrong)
            report.not_probed["later texts"] = "an earlier one is already wrong"
            return report
    report.passed["texts"] = f"{len(said)} texts in a row, two with the same beginning, one twice"
    return report


def _texts(patient: Patient) -> Iterator[tuple[Tensor, list[int]]]:
    """A text, another of the same length, one that begins like the first, and the first again."""
    a, b, c = (patient.text(PROMPT, seed=41 + i) for i in range(3))
    c = torch.cat((a[:, : PROMPT // 2], c[:, PROMPT // 2 :]), dim=1)
    for i, ids in enumerate((a, b, c, a)):
        yield ids, patient.text(NEW, seed=51 + i)[0].tolist()


def _call(program: Program, patient: Patient, ids: Tensor, new: list[int]) -> Said:
    with listening(patient.reference) as heard, Watch() as watch:
        try:
            with torch.enable_grad():  # as in a plain script
                logits = program(ids, list(new))
        except Exception as error:
            raise DoctorError(
                f"the loop raised {type(error).__name__} on ids {list(ids.shape)} and {NEW} new tokens: "
                f"{error}"
            ) from error
    if not isinstance(logits, Tensor) or logits.shape != (NEW, patient.vocab):
        what = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise DoctorError(
            f"a loop(ids, new) must return logits [new, vocab], here [{NEW}, {patient.vocab}], not {what}."
        )
    graph = "the logits carry a graph" if logits.requires_grad else ""
    logits = logits.detach().cpu()
    alive = watch.alive()
    if alive and not graph:
        graph = f"when the loop has returned, {alive} tensors saved for a backward pass are still held"
    return Said(ids, new, logits, heard, graph)


def _kept(where: str) -> Finding:
    return Finding(
        "gradients-kept",
        f"{where}, so all activations of all steps stay in memory as long as the cache does",
        fix_of(("gradients-kept",)),
        probe="gradients",
    )


def _examined(patient: Patient, said: list[Said]) -> Finding | None:
    """What is wrong with the last call; None: nothing."""
    now = said[-1]
    expected = patient.truth_from.full(now.fed)[0, -NEW:]
    logits = now.logits
    gap = gaps(logits.to(expected.dtype), expected)
    tolerance = TOLERANCE.get(now.logits.dtype, 1e-3) * patient.scale
    worst = float(gap.max())
    if worst <= tolerance:
        return None
    names, says = _named(patient, said, max(tolerance, 1e-3 * worst))
    return Finding(
        " | ".join(names) or "unknown",
        f"text {len(said)} of the loop: logits are up to {patient.size(worst)} from full recompute. {says}",
        fix_of(names),
        "bug" if names else "unknown",
        PROMPT - 1 + int((gap > tolerance).nonzero()[0]),
        probe="texts",
        distance=worst,
    )


def _named(patient: Patient, said: list[Said], tolerance: float) -> tuple[tuple[str, ...], str]:
    now = said[-1]
    for names, says, past, start in _histories(said):
        fed = torch.cat((past, now.fed[:, start:]), dim=1)
        got = patient.truth_from.full(fed)[0, -NEW:]
        if float(gaps(now.logits.to(got.dtype), got).max()) < tolerance:
            if names == UNCLEARED and now.heard.static:
                names = ("static-not-reset",)
            return names, f"They are those of another text: {says}."
    theory = _theory(patient, now)
    if theory is not None:
        return theory
    if now.heard.before:
        return ("another-prompts-cache",), (
            f"The cache already held {now.heard.before} entries when this text began, and they are not of it."
        )
    return (), "They belong to no text that the loop has seen, and no wrong position or mask explains them."


def _histories(said: list[Said]) -> Iterator[tuple[tuple[str, ...], str, Tensor, int]]:
    """Names, words, what the cache may have held, and from where on the prompt was passed behind it."""
    now, earlier = said[-1], said[:-1]
    size = now.ids.shape[1]
    twice = ("cache-covers-prompt",)
    yield twice, "the whole prompt twice", now.ids, 0
    yield twice, "the prompt with its last token twice", now.ids, size - 1
    if earlier:
        everything = torch.cat([one.fed for one in earlier], dim=1)
        yield UNCLEARED, "everything since the first text, then this one", everything, 0
    for number, one in enumerate(earlier, 1):
        yield UNCLEARED, f"text {number} with its new tokens, then this one", one.fed, 0
        yield ("another-prompts-cache",), f"text {number}'s prompt, then this one", one.ids, 0
        for i in range(1, size):
            same = torch.equal(one.ids[:, :i], now.ids[:, :i])
            if not same:
                yield (
                    ("another-prompts-cache",),
                    f"the first {i} tokens of text {number}'s prompt, then this one's from token {i} on",
                    one.ids[:, :i],
                    i,
                )
            yield (
                ("shared-prefix-in-place",) if same else ("another-prompts-cache",),
                f"all of text {number}, new tokens included, then this one's from token {i} on",
                one.fed,
                i,
            )
    if len(said) > 2:  # what several texts have written behind a common beginning
        for i in range(1, size):
            alike = [one for one in earlier if torch.equal(one.ids[:, :i], now.ids[:, :i])]
            parts = [now.ids[:, :i], *(one.fed[:, i:] for one in alike)]
            says = f"the first {i} tokens, then all that earlier texts wrote behind them"
            yield ("shared-prefix-in-place",), says, torch.cat(parts, dim=1), i


def _theory(patient: Patient, now: Said) -> tuple[tuple[str, ...], str] | None:
    """The theories of wrong steps, with the prompt in one call and the new tokens one by one."""
    total = now.fed.shape[1]
    schedule = Schedule(now.fed, singles(PROMPT, total))
    truth = patient.truth_from.full(now.fed)
    logits = torch.cat((truth[:, : PROMPT - 1], now.logits[None].to(truth.dtype)), dim=1)
    seen = Seen(Run(schedule, logits, None), truth, gaps(logits, truth))
    found = explain(patient, [*POSITIONS, *MASKS, *TOKENS], [seen])
    return None if found is None else (found.names, f"{found.says[0].upper()}{found.says[1:]}.")
