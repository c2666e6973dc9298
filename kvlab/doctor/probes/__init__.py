"""The probes, one idea a file: each returns what it found, an empty list where all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvlab.doctor.patient import Patient
from kvlab.doctor.probes import base, forks, gradients, long, padding, randomness, reordering, rows, texts
from kvlab.doctor.probes.cropping import crop_probe
from kvlab.doctor.report import Finding


@dataclass(frozen=True)
class Probe:
    """name: as reported; compares: what passing means, {reached} being the tokens of the longest text;
    early: run first, and what it finds ends the check.
    """

    name: str
    compares: str
    run: Callable[[Patient], list[Finding]]
    early: bool = False


PROBES = (
    Probe("repeatable", "equal runs give equal logits", randomness.probe, early=True),
    Probe("gradients", "neither logits nor state carry a graph", gradients.probe),
    Probe("chunks", "prefill, single steps and chunks equal full recompute", base.probe, early=True),
    Probe("new text", "a new text starts from an empty state", texts.fresh, early=True),
    Probe("long text", "so do many steps; tried up to {reached} tokens", long.probe),
    Probe("batch", "each row equals its text alone", rows.probe),
    Probe("padding", "left-padded rows equal their texts alone", padding.probe),
    Probe("fork", "two branches of one prefix go their own ways", forks.probe),
    Probe("crop", "a cropped state goes on as if the rest had never been", crop_probe),
    Probe("reorder", "after reorder, row i continues row rows[i]", reordering.probe),
    Probe("reset", "a reset state starts a new text", texts.reset),
)
