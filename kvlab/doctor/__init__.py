"""The cache doctor: what each misuse of a KV cache does, and which one it is.

kvlab.doctor.check(lm)                          a kvlab, transformers or x-transformers model
kvlab.doctor.check(lm, kvlab.Cache(lm, …))      with a store and knobs
kvlab.doctor.check(lm, cache, ids=ids)          does this cache hold what these ids give?
kvlab.doctor.check(step)                        your own step(tokens, state) -> (logits, state)
"""

from kvlab.doctor.check import check
from kvlab.doctor.confusion import Confusion, confusion
from kvlab.doctor.patient import DoctorError
from kvlab.doctor.report import Finding, Report
from kvlab.doctor.subject import Subject, Unable

__all__ = ["Confusion", "DoctorError", "Finding", "Report", "Subject", "Unable", "check", "confusion"]
