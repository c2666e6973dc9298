"""Gathering from a stream whose first and newest entries are exact: only the rows are read, and counted."""

from __future__ import annotations

import pytest
import torch

from kvlab import KIVI, Quantize
from kvlab.stores.stream import GrowingStream

BATCH, HEADS, DIM = 2, 2, 8
EXACT = BATCH * HEADS * DIM * 8  # bytes of a column of exact entries, float64
CODES = BATCH * HEADS * (DIM // 2 + 4)  # of a column in 4 bits, and a float16 scale and least of each group


def stream(sink: int = 3, residual: int = 2) -> GrowingStream:
    """20 entries: `sink` exact, then sealed ones, then `residual` exact."""
    made = GrowingStream(Quantize(4, "token", None, residual=residual, sink=sink))
    made.append(torch.randn(BATCH, HEADS, 20, DIM, generator=torch.Generator().manual_seed(1)).double())
    made.seal()
    made.commit()
    return made


@pytest.mark.parametrize(
    ("rows", "exact_columns"),
    [
        ([5, 9, 17], 0),  # sealed ones only
        ([0, 2, 7, 9, 19], 3),  # two sinks in front, one of the newest behind
        ([0, 1, 2], 3),
        ([18, 19], 2),
        ([4, 18], 1),
    ],
)
def test_bytes_are_those_of_the_rows(rows: list[int], exact_columns: int) -> None:
    made = stream()
    at = torch.tensor(rows).expand(BATCH, HEADS, -1)
    x, read = made.gather(at)
    assert torch.equal(x, made.read()[:, :, rows])
    assert read == len(rows) * CODES + exact_columns * EXACT < made.nbytes


def test_heads_may_ask_for_other_rows() -> None:
    """A column is read for all heads where any asks for an exact entry there."""
    made = stream()
    at = torch.tensor([[[0, 6], [5, 19]], [[7, 8], [3, 4]]])  # [batch, kv_heads, n]
    x, read = made.gather(at)
    assert torch.equal(x, made.read().gather(2, at.unsqueeze(-1).expand(-1, -1, -1, DIM)))
    assert read == 2 * CODES + 2 * EXACT


def test_what_was_not_asked_for_is_never_touched() -> None:
    made, rows = stream(), [1, 6, 18]
    at = torch.tensor(rows).expand(BATCH, HEADS, -1)
    wanted, _ = made.gather(at)
    made.first.data[:, :, [0, 2]] = float("nan")
    made.rest.data[:, :, 1:] = float("nan")
    for part in made.sealed.values():
        unread = [i for i in range(15) if i + 3 not in rows + [3, 17]]  # 3 and 17 stand in for rows elsewhere
        part.data[:, :, unread] = 0
    assert torch.equal(made.gather(at)[0], wanted)


def test_where_tokens_share_a_block_all_is_read_and_counted() -> None:
    made = GrowingStream(KIVI(4, 4, residual=4, sink=2).at(0, "keys"))
    made.append(torch.randn(1, 2, 20, DIM, generator=torch.Generator().manual_seed(1)).double())
    made.seal()
    x, read = made.gather(torch.tensor([3, 4]).expand(1, 2, -1))
    assert made.codec.block == 4 and torch.equal(x, made.read()[:, :, 3:5])
    assert read == made.nbytes
