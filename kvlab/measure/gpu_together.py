"""The part of `bench gpu` about combinations: four bits, an eviction and a selection on one long cache."""

from __future__ import annotations

from typing import Any

import torch

from kvlab.measure import together as shared
from kvlab.measure.clock import once
from kvlab.measure.gpu import Run, free_memory
from kvlab.measure.report import Report

# KIVI is there for its kernel; the codes that a token has by itself have none.
WAYS = (shared.FULL, "int4", "KIVI", "SnapKV", "Quest", "KIVI + SnapKV", "int4 + SnapKV + Quest")


def together(run: Run, report: Report) -> str:
    """Bytes and the time of a step of the GQA shape after a long prompt, and what computed its attention."""
    plan = run.plan
    lm = run.model(plan.gqa)
    budget = shared.Budget(plan.together_tokens)
    report.parameters |= {"model": plan.gqa, "weights": "random", **vars(budget)}
    taken = shared.Run(lm, budget, 1, 0, ("bytes", "time"))
    rows: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        if run.late:
            report.notes.append(f"{way} was not begun: the time was out")
            continue
        try:
            rows[way] = report.add(model=plan.gqa, way=way, tokens=budget.tokens, **taken.quality(way))
        except Exception as error:
            report.fail(way, error)
        free_memory()
    for way, row in rows.items():  # one after the other beside the baseline: all at once would not fit
        try:
            row |= taken.times(dict.fromkeys((shared.FULL, way)), plan.rounds, steps=4)[way]
            row["served"] = _served(run, taken, way)
        except Exception as error:
            report.fail(way, error)
        report.save()
        free_memory()
    lines = [f"{row['way']}: {' | '.join(row['served'])}" for row in report.rows if "served" in row]
    return "\n".join([shared.together_table(report), *lines])


def _served(run: Run, taken: shared.Run, way: str) -> list[str]:
    """What computed the attention of a step, each answer once."""
    cache = taken.first.fill(taken.lm, taken.empty(way))
    with torch.no_grad():
        once(lambda: taken.lm(taken.first.ids[:, -1:], cache, last_only=True), run.plan.device)
    return list(dict.fromkeys(cache.explain()))
