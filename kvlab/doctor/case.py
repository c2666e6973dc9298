"""A cache under examination beside the ids that it was made from, and how a finding about it is put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.contents import Kept, contents, recomputed
from kvlab.doctor.names import fix_of
from kvlab.doctor.patient import TOLERANCE, DoctorError
from kvlab.doctor.reference import Entries, Reference
from kvlab.doctor.report import Finding, Kind


@dataclass(frozen=True)
class Case:
    """What a cache keeps, layer by layer, and what a recompute of the ids gives."""

    reference: Reference
    ids: Tensor  # [rows, tokens]
    real: Tensor  # [rows, tokens], False at padding
    kept: list[Kept]
    given: list[Entries]  # keys and values, [rows, kv_heads, tokens, head_dim]

    @property
    def total(self) -> int:
        return self.ids.shape[1]

    def tolerance(self, layer: int) -> tuple[float, float]:
        """How far keys and values of a layer may lie apart and still be the same."""
        share = TOLERANCE.get(self.given[0][0].dtype, 1e-3)
        keys, values = (share * float(x.double().std()) for x in self.given[layer])
        return keys, values

    def wrong_columns(self, layer: int, given: Entries) -> list[int]:
        """The columns of the ids whose entries in a layer are not the `given` ones, in any row."""
        kept, wrong = self.kept[layer], set()
        for row, at in enumerate(kept.columns):
            good = (at >= 0) & (at < self.total)
            for mine, due, limit in zip((kept.keys, kept.values), given, self.tolerance(layer), strict=True):
                gap = (mine[row][:, good] - due[row][:, at[good]]).abs().amax(dim=(0, 2))
                wrong |= set(at[good][~(gap <= limit)].tolist())
        return sorted(wrong)


def case_of(reference: Reference, cache: Any, ids: Tensor, mask: Tensor | None) -> Case:
    """Everything that is compared.

    Raises:
        DoctorError: ids, mask or cache are of another kind, or of another model.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype != torch.int64 or 0 in ids.shape:
        raise DoctorError("ids must be an int64 tensor [rows, tokens]: all that the cache was made from.")
    if mask is not None and (mask.shape != ids.shape or mask.dtype != torch.bool):
        raise DoctorError(f"mask must be bool {list(ids.shape)} as ids, False where a token is padding.")
    if int(ids.max()) >= reference.vocab_size or int(ids.min()) < 0:
        raise DoctorError(f"ids must lie from 0 to {reference.vocab_size - 1}, the model's vocabulary.")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    kept = contents(cache, reference, real)
    given = recomputed(reference, ids, real)
    if [one.keys.shape[1::2] for one in kept] != [keys.shape[1::2] for keys, _ in given]:
        raise DoctorError("this cache has other layers or heads than the model: it was made for another one.")
    return Case(reference, ids, real, kept, given)


def finding(names: tuple[str, ...], says: str, token: int, layer: int = 0, kind: Kind = "bug") -> Finding:
    """No names: unknown. token: column of the ids."""
    advice = "None needed if the loss is meant." if kind == "lossy" else fix_of(names)
    if not names:
        kind = "unknown"
    what = f"{says[0].upper()}{says[1:]}."
    return Finding(" | ".join(names) or "unknown", what, advice, kind, token, layer, "contents")
