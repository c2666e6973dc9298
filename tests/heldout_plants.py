"""Misuses planted a second time, for the doctor's exam: its probes were not made with these at hand.

Seven of the first were missed, and the doctor was mended by them; `heldout_again` was written after that.
Each factory of `PLANTS` returns a decoding step or a caller's loop with one misuse in it, written in another
way and met in another place than the obvious one. `CORRECT` holds steps and models with none, `LOSSY` caches
that forget on purpose. All models are random, and small enough to be made anew for every test.
"""

from importlib import import_module

from heldout_base import PLANTS, VOCAB, Plant
from heldout_correct import CORRECT, LOSSY, kvlab_bfloat16, llama_in_bfloat16

for theme in ("positions", "masks", "storage", "batches", "loops", "again"):
    import_module(f"heldout_{theme}")  # adds its plants to the list

__all__ = ["CORRECT", "LOSSY", "PLANTS", "VOCAB", "Plant", "kvlab_bfloat16", "llama_in_bfloat16"]
