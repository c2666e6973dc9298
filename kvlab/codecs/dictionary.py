"""Dictionary codes: each head vector as a sum of a few atoms, chosen greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.codecs.base import Codec, Packed, require_counts, require_finite
from kvlab.codecs.calibrate import Learned, entries
from kvlab.codecs.low_rank import STREAMS

if TYPE_CHECKING:
    from kvlab.model.config import Config
    from kvlab.model.decoder import Decoder

LARGEST = 448.0  # what float8 e4m3 holds


class Atoms(Codec):
    """`x ~ sum of code * atom` over `sparsity` atoms of one dictionary: 3 bytes an atom, and 2 a vector.

    atoms: unit vectors, float16 `[atoms, head_dim]`; the heads of a stream share them, and a cache counts
    them once. For each atom used, its number (int16) and its coefficient (float8 e4m3 times a float16 scale).

    No vector comes back worse than as zeros, but for rounding: the error is at most `|x| + 2 ** -4 *
    sum|code| + 2 ** -10 * max|code| * sparsity`. How much better depends on the dictionary, and is measured
    on other text than it was learned from.

    Raises:
        ValueError: parameters out of range; another head_dim, NaN, infinite or huge numbers (`encode`).
    """

    def __init__(
        self, atoms: Tensor, sparsity: int, residual: int = 0, sink: int = 0, plain_keys: bool = True
    ):
        if atoms.dim() != 2 or not 1 <= len(atoms) <= 32768:
            raise ValueError(f"Atoms needs 1 to 32,768 atoms [atoms, head_dim], not {list(atoms.shape)}.")
        if not 1 <= sparsity <= min(atoms.shape):
            raise ValueError(
                f"sparsity is how many of {len(atoms)} atoms of {atoms.shape[1]} numbers make a vector: 1 to "
                f"{min(atoms.shape)}, not {sparsity}."
            )
        require_counts("Atoms", residual=residual, sink=sink)
        require_finite("Atoms", atoms, largest="65504")
        self.atoms, self.sparsity = F.normalize(atoms.float(), dim=-1).to(torch.float16), sparsity
        self.residual, self.sink, self.plain_keys = residual, sink, plain_keys

    def refuse(self, config: Config) -> None:
        self._check(config.head_dim)

    def _check(self, dim: int) -> None:
        if dim != self.atoms.shape[1]:
            raise ValueError(
                f"these atoms have {self.atoms.shape[1]} numbers, the model's heads {dim}; learn others."
            )

    def encode(self, x: Tensor) -> Packed:
        """atom: int16, code: uint8 (the bits of float8 e4m3), each `[batch, kv_heads, tokens, sparsity]`;
        scale: float16 `[…, 1]`."""
        self._check(x.shape[-1])
        require_finite("Atoms", x.to(torch.float16), largest="65504")
        atom, code = pursue(x.float().flatten(0, 2), self.atoms.float(), self.sparsity)
        scale = (code.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=2**-24).to(torch.float16)
        small = (code / scale.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)
        shape = x.shape[:3]
        parts = {"atom": atom.to(torch.int16), "code": small, "scale": scale}
        return {name: part.view(*shape, -1) for name, part in parts.items()}

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        code = packed["code"].contiguous().view(torch.float8_e4m3fn).float() * packed["scale"].float()
        chosen = self.atoms[packed["atom"].long()].float()  # [batch, kv_heads, tokens, sparsity, head_dim]
        return (code.unsqueeze(-2) @ chosen).squeeze(-2).to(dtype)

    def shared_tensors(self) -> list[Tensor]:
        return [self.atoms]


class Lexico(Learned):
    """Dictionary codes for each layer and stream, as in Lexico (Kim et al., 2024).

    The paper learns 4,096 atoms a layer and stream by gradient descent, and they serve any text. Here they
    are learned from one calibration text by the method of optimal directions, in seconds, so there are fewer.

    Made of its codecs by (layer, stream); what is missing stays exact.
    """

    what = "dictionary"

    @classmethod
    def fit(
        cls,
        lm: Decoder,
        ids: Sequence[int],
        sparsity: int = 8,
        atoms: int = 512,
        rounds: int = 2,
        residual: int = 0,
        sink: int = 4,
        seed: int = 0,
    ) -> Lexico:
        """Learn the dictionaries from the text `ids`; see `learn`.

        Raises:
            ValueError: no text; what `learn` refuses.
        """
        return cls.learn(entries(lm, ids), sparsity, atoms, rounds, residual, sink, seed)

    @classmethod
    def learn(
        cls,
        pairs: Sequence[tuple[Tensor, Tensor]],
        sparsity: int = 8,
        atoms: int = 512,
        rounds: int = 2,
        residual: int = 0,
        sink: int = 4,
        seed: int = 0,
    ) -> Lexico:
        """A dictionary for each layer and stream, from keys (before the rotary embedding) and values
        `[kv_heads, tokens, head_dim]` without their first `sink` tokens.

        Raises:
            ValueError: fewer vectors than atoms wanted; what `Atoms` refuses.
        """
        found = {}
        for layer, pair in enumerate(pairs):
            for stream, x in zip(STREAMS, pair, strict=True):
                learned = learn(x[:, sink:].flatten(0, 1), atoms, sparsity, rounds, seed)
                found[layer, stream] = Atoms(learned, sparsity, residual, sink, stream == "keys")
        return cls(found)


def pursue(x: Tensor, atoms: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit (Pati et al., 1993): atoms and coefficients, each `[n, sparsity]`.

    Takes the atom that points most along what is still missing, then fits all coefficients anew; so the rest
    is orthogonal to every atom taken. `x [n, dim]`, `atoms [atoms, dim]`, unit vectors.
    """
    chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    code = x.new_zeros(len(x), 0)
    rest = x
    for _ in range(sparsity):
        match = (rest @ atoms.T).abs().scatter(1, chosen, -1.0)  # none twice
        chosen = torch.cat((chosen, match.argmax(1, keepdim=True)), 1)
        basis = atoms[chosen]  # [n, taken so far, dim]
        gram = basis @ basis.transpose(1, 2) + 1e-6 * torch.eye(chosen.shape[1], device=x.device)
        code = torch.linalg.solve(gram, (basis @ x.unsqueeze(-1))).squeeze(-1)
        rest = x - (code.unsqueeze(1) @ basis).squeeze(1)
    return chosen, code


def learn(x: Tensor, atoms: int, sparsity: int, rounds: int, seed: int = 0) -> Tensor:
    """A dictionary `[atoms, dim]` for vectors `x [n, dim]`: the method of optimal directions (Engan, 1999).

    Begins with vectors of the text, drawn at random, and then in turn codes all vectors with the atoms, and
    fits all atoms to the codes. An atom that nobody used is drawn anew.

    Raises:
        ValueError: fewer vectors than atoms.
    """
    if len(x) < atoms:
        raise ValueError(f"{len(x)} vectors cannot make {atoms} atoms; give more text or ask for fewer.")
    generator = torch.Generator().manual_seed(seed)
    x = x.float()
    found = F.normalize(x[torch.randperm(len(x), generator=generator)[:atoms].to(x.device)], dim=-1)
    for _ in range(rounds):
        chosen, code = pursue(x, found, sparsity)
        dense = x.new_zeros(len(x), atoms).scatter(1, chosen, code)
        gram = dense.T @ dense
        ridge = 1e-4 * gram.diagonal().mean() * torch.eye(atoms, device=x.device)
        fitted = torch.linalg.solve(gram + ridge, dense.T @ x)
        unused = (dense != 0).sum(0) == 0
        spare = x[torch.randperm(len(x), generator=generator)[:atoms].to(x.device)]
        found = F.normalize(torch.where(unused.unsqueeze(1), spare, fitted), dim=-1)
    return found
