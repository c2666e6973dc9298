"""Hash tables: read what falls into the query's buckets, and weigh it by how likely that was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.selection.base import Pick, Selection, grouped, rows_where
from kvlab.selection.hashing import Directions, centred, mean_of, nearest_direction, table_codes

if TYPE_CHECKING:
    from kvlab.stores.base import Step, View


class LSHSampling(Selection):
    """MagicPIG (Chen et al., 2024): sample keys by hash collisions, and correct for their probability.

    A key at an angle θ to the query agrees in the `bits` signs of a table with p = (1 - θ/π)^bits. Read are
    the keys that agree in at least two of `tables` tables; each was to be found with
    w = 1 - (1 - p)^L - L p (1 - p)^(L-1), and -log w is added to its score, so that the sums of softmax
    are estimated without bias. The first `sinks` and the newest `recent` entries are read always, with no
    weight. Keys are hashed around the mean of the first ones. Two bytes a key and table are kept. The
    paper looks buckets up on the host; here the codes are compared one by one, and reading them is counted.
    A KV head reads what any query head of its group found, and each head uses what it found itself.

    Raises:
        ValueError: `bits` outside 1 … 15, `tables` less than 2, `sinks` negative, `recent` less than 1.
    """

    page = 1

    def __init__(self, bits: int = 8, tables: int = 75, sinks: int = 4, recent: int = 64, seed: int = 0):
        if not 1 <= bits <= 15 or tables < 2 or sinks < 0 or recent < 1:
            raise ValueError(
                "LSHSampling needs bits from 1 to 15, tables >= 2, sinks >= 0 and recent >= 1, not "
                f"{bits}, {tables}, {sinks} and {recent}."
            )
        self.bits, self.tables, self.sinks, self.recent = bits, tables, sinks, recent
        self.directions = Directions(bits * tables, seed)

    def constants(self, keys: Tensor, real: Tensor) -> dict[str, Tensor]:
        return mean_of(keys, real)

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        keys = centred(keys, constants["mean"])
        return {"code": table_codes(keys, self.directions(keys), self.tables)}

    def shared_tensors(self) -> list[Tensor]:
        return list(self.directions.made.values())

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        codes = index["code"]  # [batch, kv_heads, slots, tables]
        q = grouped(queries, codes.shape[1])
        asked = table_codes(q, self.directions(q), self.tables)  # [batch, kv_heads, group, tables]
        found = torch.stack([(codes == asked[:, :, i : i + 1]).sum(-1) for i in range(q.shape[2])], dim=2)
        seen = visible[..., : index.pages]  # [batch, 1 or kv_heads, 1, slots]
        always = _always(view.positions, step, self.sinks, self.recent)[..., None, : index.pages]
        found = ((found >= 2) | always) & seen  # [batch, kv_heads, group, slots]
        rows = rows_where(found.any(dim=2))
        bias = self._weights(q, view, index.constants["mean"], rows)
        at = rows.clamp(min=0).unsqueeze(2)  # [batch, kv_heads, 1, n]
        mine = found.take_along_dim(at, dim=-1)
        bias = bias.masked_fill(~mine | (rows < 0).unsqueeze(2), float("-inf"))
        exact = always.take_along_dim(at, dim=-1) & mine
        return Pick(rows, codes.nbytes, bias=bias.masked_fill(exact, 0.0), gaps=True)

    def _weights(self, q: Tensor, view: View, mean: Tensor, rows: Tensor) -> Tensor:
        """-log of the probability to be found, `[batch, kv_heads, group, n]`."""
        keys = centred(view.keys.gather(rows.clamp(min=0))[0], mean)
        norms = q.norm(dim=-1, keepdim=True) * keys.norm(dim=-1).unsqueeze(2)
        cosine = (q @ keys.transpose(-1, -2) / norms.clamp(min=1e-12)).clamp(-1, 1)
        return -found_with(cosine, self.bits, self.tables).clamp(min=1e-9).log()


def found_with(cosine: Tensor, bits: int, tables: int) -> Tensor:
    """Probability that vectors with this cosine agree in all `bits` of at least two of `tables` tables."""
    p = (1 - cosine.acos() / math.pi) ** bits
    return 1 - (1 - p) ** tables - tables * p * (1 - p) ** (tables - 1)


def _always(positions: Tensor, step: Step, sinks: int, recent: int) -> Tensor:
    """The first and the newest entries, `[batch, 1 or kv_heads, slots]`."""
    now = step.positions.amax(dim=-1)[:, None, None]
    return (positions < sinks) | (positions > now - recent)


class Buckets(Selection):
    """Reformer's attention (Kitaev et al., 2020): a query reads the keys in its bucket, in any of `rounds`.

    A vector's bucket is the nearest of `buckets` directions, argmax [xR; -xR]. Reformer makes the query and
    the key of a token one vector, so that like tokens share a bucket. Models trained with two projections
    put queries and keys in different places, and their buckets seldom meet. The newest `recent` entries
    are read always (the paper's sorted chunks let neighbours see one another). One byte a key and round.

    Raises:
        ValueError: `buckets` odd or outside 2 … 256, `rounds` or `recent` less than 1.
    """

    page = 1

    def __init__(self, buckets: int = 16, rounds: int = 4, recent: int = 64, seed: int = 0):
        if buckets % 2 or not 2 <= buckets <= 256 or rounds < 1 or recent < 1:
            raise ValueError(
                "Buckets needs an even number of buckets up to 256, rounds >= 1 and recent >= 1, not "
                f"{buckets}, {rounds} and {recent}."
            )
        self.rounds, self.recent = rounds, recent
        self.directions = Directions(rounds * buckets // 2, seed)

    def summarise(self, keys: Tensor, real: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"code": nearest_direction(keys, self.directions(keys), self.rounds)}

    def shared_tensors(self) -> list[Tensor]:
        return list(self.directions.made.values())

    def choose(self, queries: Tensor, view: View, visible: Tensor, scale: float, step: Step) -> Pick | None:
        index = view.index
        assert index is not None
        codes = index["code"]  # [batch, kv_heads, slots, rounds]
        q = grouped(queries, codes.shape[1])
        asked = nearest_direction(q, self.directions(q), self.rounds)
        found = _always(view.positions, step, 0, self.recent)[..., : index.pages]
        for i in range(q.shape[2]):
            found = found | (codes == asked[:, :, i : i + 1]).any(dim=-1)
        rows = rows_where(found & visible[:, :, 0, : index.pages])
        return Pick(rows, codes.nbytes, gaps=True)
