"""`kvlab.doctor.check`: examine anything that decodes with a cache."""

from __future__ import annotations

import inspect
import random
from typing import Any

import torch
from torch import Tensor, nn

from kvlab.cache import Cache
from kvlab.doctor.adapters import FunctionSubject, KvlabSubject
from kvlab.doctor.find import find_references
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import DoctorError, Patient
from kvlab.doctor.probes import PROBES, Probe
from kvlab.doctor.reference import Reference, reference_of
from kvlab.doctor.report import Finding, Report
from kvlab.doctor.schedule import Schedule, singles
from kvlab.doctor.subject import Subject, Unable

ROUNDS = 44  # tokens to compare in the own dtype: few, and bfloat16 may round alike by chance


def check(
    subject: Any,
    cache: Any = None,
    *,
    ids: Tensor | None = None,
    mask: Tensor | None = None,
    model: Any = None,
    vocab_size: int | None = None,
) -> Report:
    """Find out whether decoding with a cache gives what full recompute gives; name what is wrong.

    With `ids`: find out whether this cache, as it is, holds what a recompute of these ids holds.

    Args:
        subject: a kvlab model; a transformers causal LM; an x-transformers `TransformerWrapper`; a
            `Subject`; any callable `step(tokens, state) -> (logits, state)`, tokens int64 `[batch, new]`,
            logits `[batch, new, vocab]`, state None at the start of a text; or a whole loop,
            `loop(ids, new) -> logits [new, vocab]`, whose second argument is called `new`: ids `[1, tokens]`,
            and the list of tokens to go on with, of which row i of the logits is before token i.
        cache: with a kvlab model, a `kvlab.Cache` whose store and knobs are to be used; with a transformers
            model, a function that makes an empty cache. With `ids`: a filled one, of either library.
        ids: int64 `[rows, tokens]`, all that `cache` was made from: `check(lm, cache, ids=ids)`.
        mask: bool, as `ids`, False where they are padding.
        model: the model behind a callable, where the doctor cannot find it by itself.
        vocab_size: of a callable whose model is not to be had.

    Nothing is printed, and the model is left as it was.

    Raises:
        DoctorError: this cannot be examined; the message says why.
    """
    reference = None if model is None else reference_of(model)
    if model is not None and reference is None:
        raise DoctorError(f"model must be a kvlab, transformers or x-transformers model, not {_a(model)}.")
    if ids is not None or mask is not None:
        from kvlab.doctor.check_contents import check_contents

        return check_contents(subject, cache, ids, mask)
    if is_loop(subject):
        return _check_loop(subject, reference)
    taken = as_subject(subject, cache, model, vocab_size)
    return examine(taken, reference)


def examine(subject: Subject, reference: Reference | None = None) -> Report:
    """Run every probe on a subject."""
    before = torch.get_rng_state(), random.getstate()
    try:
        patient = Patient(subject, reference)
        report = Report(subject.name)
        for probe in PROBES:
            if _stopped(report):
                report.not_probed[probe.name] = f"the step is not right yet ({report.findings[-1].name})"
            else:
                _run(probe, patient, report)
        report.longest = patient.reached
        if report.ok and not patient.loses:
            _rounding(patient, report)
        return report
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])


def _stopped(report: Report) -> bool:
    """After one of the first probes has found something, the others would only find its traces."""
    early = {probe.name for probe in PROBES if probe.early}
    return any(finding.probe in early and finding.kind != "lossy" for finding in report.findings)


def _run(probe: Probe, patient: Patient, report: Report) -> None:
    try:
        findings = probe.run(patient)
    except (Unable, NotImplementedError) as why:
        report.not_probed[probe.name] = str(why) or "the subject cannot do this"
        return
    except DoctorError:
        raise
    except Exception as error:  # the subject's own: evidence, not a crash of ours
        findings = [
            Finding(
                "unknown",
                f"the step raised {type(error).__name__}: {error}",
                "Make these calls work first; the message says what the step could not do.",
                "unknown",
            )
        ]
    for finding in findings:
        report.findings.append(Finding(**{**vars(finding), "probe": probe.name}))
    if not findings:
        report.passed[probe.name] = probe.compares.format(reached=patient.reached)


def _rounding(patient: Patient, report: Report) -> None:
    """The same steps in the subject's own dtype: what float64 does not show is rounding."""
    native = patient.in_own_dtype()
    length = patient.room(ROUNDS)
    seen = native.see(Schedule(patient.text(length, seed=3), singles(4, length)))
    dtype = str(native.dtype).removeprefix("torch.")
    if seen.worst <= 1e-3 * patient.scale:
        if patient.exact:
            report.passed["rounding"] = f"float64 agrees with full recompute, and {dtype} nearly so"
        else:
            report.not_probed["rounding"] = "the subject cannot be rerun in float64"
        return
    why = (
        "in float64 the same steps agree: no bug, the two ways only round differently"
        if patient.exact
        else f"which is what {dtype} can do; without a rerun in float64 a small bug could hide behind it"
    )
    report.findings.append(
        Finding(
            "rounding",
            f"in {dtype} logits are up to {patient.size(seen.worst)} from full recompute, {why}",
            fix_of(("rounding",)),
            "rounding",
            probe="rounding",
            distance=seen.worst,
        )
    )


def is_loop(thing: Any) -> bool:
    """Whether the second argument of a callable is called `new`, or begins so."""
    if isinstance(thing, (Subject, nn.Module)) or not callable(thing):
        return False
    try:
        names = list(inspect.signature(thing).parameters)
    except ValueError:
        return False
    return len(names) >= 2 and names[1].startswith("new")


def _check_loop(loop: Any, reference: Reference | None) -> Report:
    from kvlab.doctor.loop import check_loop

    known = [reference] if reference is not None else find_references(loop)
    if not known:
        raise DoctorError(
            "the doctor found no model in this loop to recompute with; pass it: check(loop, model=lm)."
        )
    name = getattr(loop, "__name__", type(loop).__name__)
    return check_loop(loop, known[0], name)


def as_subject(thing: Any, cache: Any = None, model: Any = None, vocab_size: int | None = None) -> Subject:
    """The adapter for what `check` takes.

    Raises:
        DoctorError: there is none.
    """
    if isinstance(thing, Subject):
        return thing
    reference = reference_of(thing)
    if reference is not None:
        try:
            return _of_model(thing, cache)
        except ValueError as error:  # an adapter says what it cannot take
            raise DoctorError(str(error)) from None
    if isinstance(thing, Cache):
        raise DoctorError(
            "a cache alone cannot be examined: check(lm, cache) tries its kind out from empty, and "
            "check(lm, cache, ids=ids) compares what it holds with a recompute of the ids."
        )
    if isinstance(thing, nn.Module) or not callable(thing):
        raise DoctorError(
            f"the doctor takes a kvlab, transformers or x-transformers model, a Subject, or a function "
            f"step(tokens, state) -> (logits, state), not {_a(thing)}."
        )
    return _of_function(thing, model, vocab_size)


def _of_model(model: Any, cache: Any) -> Subject:
    family = type(reference_of(model)).__name__
    if family == "KvlabReference":
        if cache is not None and not isinstance(cache, Cache):
            raise DoctorError(f"cache must be a kvlab.Cache, not {_a(cache)}.")
        return KvlabSubject(model, cache)
    if family == "TransformersReference":
        from kvlab.interop.transformers import TransformersSubject

        return TransformersSubject(model, cache)
    from kvlab.interop.x_transformers import XSubject

    return XSubject(model)


def _of_function(function: Any, model: Any, vocab_size: int | None) -> Subject:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise DoctorError(
            f"{getattr(function, '__name__', _a(function))}{inspect.signature(function)} must take two "
            "arguments, (tokens, state), and return (logits, state)."
        ) from None
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    if vocab_size is None:
        given = reference_of(model) if model is not None else None
        known = [given] if given is not None else find_references(function)
        if not known:
            raise DoctorError(
                "the doctor found no model in this function, so it does not know which token ids exist; pass "
                "vocab_size=…, and model=… to have misuses named exactly."
            )
        vocab_size = known[0].vocab_size
    return FunctionSubject(function, vocab_size)


def _a(thing: Any) -> str:
    return f"a {type(thing).__module__}.{type(thing).__qualname__}"
