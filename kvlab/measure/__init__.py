"""Measuring: FLOPs and bytes by count, seconds by the clock, and the bound that a machine's ceilings give."""

from kvlab.measure.bytes import (
    StepBytes,
    cache_bytes,
    cache_bytes_per_token,
    decode_bytes,
    prefill_bytes,
    weight_bytes,
    weights_read,
)
from kvlab.measure.clock import Timing, alternate, measure, once
from kvlab.measure.flops import (
    Flops,
    decode_flops,
    forward_flops,
    generation_flops,
    naive_flops,
    visible_pairs,
)
from kvlab.measure.machine import commit, describe, device_name, versions
from kvlab.measure.report import Report, read_report
from kvlab.measure.roofline import Ceilings, ceilings
from kvlab.measure.tables import table

__all__ = [
    "Ceilings",
    "Flops",
    "Report",
    "StepBytes",
    "Timing",
    "alternate",
    "cache_bytes",
    "cache_bytes_per_token",
    "ceilings",
    "commit",
    "decode_bytes",
    "decode_flops",
    "describe",
    "device_name",
    "forward_flops",
    "generation_flops",
    "measure",
    "naive_flops",
    "once",
    "prefill_bytes",
    "read_report",
    "table",
    "versions",
    "visible_pairs",
    "weight_bytes",
    "weights_read",
]
