"""Does a cache hold what a recompute of the ids that it was made from holds? Every entry is compared."""

from __future__ import annotations

from typing import Any

from kvlab.cache import Cache
from kvlab.doctor.adapters import loss_of
from kvlab.doctor.case import Case, case_of, finding
from kvlab.doctor.first_layer import in_first_layer
from kvlab.doctor.later_layers import in_later_layers
from kvlab.doctor.patient import DoctorError
from kvlab.doctor.reference import reference_of
from kvlab.doctor.report import Finding, Report
from kvlab.doctor.subject import Unable


def check_contents(lm: Any, cache: Any, ids: Any, mask: Any) -> Report:
    """ids: int64 `[rows, tokens]`, all that the cache was made from; mask: bool, False where ids are padding.

    Raises:
        DoctorError: one of them is of another kind, or the cache is of another model.
    """
    if ids is None:
        raise DoctorError(
            "mask tells which of the ids are padding; pass them too: check(lm, cache, ids=ids)."
        )
    reference = reference_of(lm)
    if reference is None or cache is None:
        what = [f"a {type(thing).__module__}.{type(thing).__qualname__}" for thing in (lm, cache)]
        raise DoctorError(
            "ids are compared with what a cache holds, which takes the model and the cache: "
            f"check(lm, cache, ids=ids); here the model is {what[0]} and the cache {what[1]}."
        )
    try:
        case = case_of(reference, cache, ids, mask)
    except Unable:
        raise DoctorError(f"what a cache of {type(lm).__name__} holds cannot be recomputed.") from None
    report = Report(f"{type(cache).__name__} of {type(lm).__name__}")
    lossy = loss_of(cache) if isinstance(cache, Cache) else None
    wrong = _lost(case, lossy) if lossy else in_first_layer(case) or in_later_layers(case)
    if wrong is not None:
        report.findings.append(wrong)
        return report
    report.passed["rows"] = f"{len(ids)}: each holds its own text"
    report.passed["tokens"] = f"{case.total}: none is missing, none is another's, none is there twice"
    report.passed["positions"] = "each key is as at its own position"
    report.passed["layers"] = f"{len(case.kept)}: keys and values are those of a recompute of these ids"
    return report


def _lost(case: Case, lossy: str) -> Finding:
    """What a codec or an eviction left, beside what was there."""
    worst, near = 0.0, True
    for layer, (kept, (_, values)) in enumerate(zip(case.kept, case.given, strict=True)):
        for row, at in enumerate(kept.columns):
            good = (at >= 0) & (at < case.total)
            # Heads may have kept different entries; the first one's slots are known.
            gap = (kept.values[row][:1, good] - values[row][:1, at[good]]).double()
            worst = max(worst, float(gap.abs().max()))
            near &= layer > 0 or float(gap.std()) < 0.5 * float(values.double().std())
    if near:
        return finding(
            ("lossy",), f"{lossy}: values are up to {worst:.2g} from those of a recompute", 0, kind="lossy"
        )
    return finding(("another-prompts-cache",), "its entries are nothing like those of these ids", 0)
