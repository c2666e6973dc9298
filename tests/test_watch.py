"""What runs inside a block is noted, by the thread that asked, and nothing after it."""

from __future__ import annotations

import threading

import pytest
import torch

import kvlab
from kvlab.measure.watch import rows_computed, seen_by, watch
from kvlab.model import Decoder


def test_inputs_and_outputs_come_with_the_module_s_name(tiny: Decoder) -> None:
    noted: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    modules = {"embed": tiny.embed_tokens, "norm": tiny.norm}
    ids = torch.tensor([[1, 2, 3]])
    with watch(modules, lambda name, given, out: noted.append((name, given, out))), torch.no_grad():
        tiny(ids)
    assert [name for name, _, _ in noted] == ["embed", "norm"]
    assert noted[0][1].equal(ids) and noted[1][2].shape == (1, 3, tiny.config.hidden_size)


def test_rows_computed_counts_every_call_and_stops(tiny: Decoder) -> None:
    with rows_computed(tiny) as naive:
        kvlab.generate(tiny, [5, 6, 7], max_new_tokens=4, stop_tokens=[])
    with rows_computed(tiny) as cached:
        kvlab.generate(tiny, [5, 6, 7], kvlab.Cache(tiny), max_new_tokens=4, stop_tokens=[])
    tiny(torch.tensor([[1, 2]]))
    assert naive == [3, 4, 5, 6]
    assert cached == [3, 1, 1, 1]


def test_rows_computed_stops_after_an_error(tiny: Decoder) -> None:
    with pytest.raises(KeyError), rows_computed(tiny) as rows:
        raise KeyError
    tiny(torch.tensor([[1, 2]]))
    assert rows == []


def test_what_another_thread_runs_is_not_seen(tiny: Decoder) -> None:
    ids = torch.arange(8)[None] + 20
    with seen_by(list(tiny.layers)) as inputs, torch.no_grad():
        other = threading.Thread(target=tiny, args=(ids,))
        other.start()
        other.join()
        assert not inputs
        tiny(ids)
    assert len(inputs) == len(tiny.layers)
