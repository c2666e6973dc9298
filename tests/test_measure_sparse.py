"""`kvlab bench sparse`: all ways compute what they say, whatever they take."""

from __future__ import annotations

import pytest
import torch

from kvlab import cli
from kvlab.measure.report import read_report
from kvlab.measure.sparse import DENSE, PATTERNS, Layer, decode_ways, pairs, prefill_ways
from kvlab.zoo import SHAPES


@pytest.fixture(scope="module")
def layer() -> Layer:
    return Layer(SHAPES["tiny"], 1536, 2, torch.device("cpu"), torch.float64)


def test_the_ways_over_the_same_pages_agree(layer: Layer) -> None:
    outs = {name: way() for name, way in decode_ways(layer).items()}
    for name in ("tokens gathered", "pages gathered"):
        assert torch.allclose(outs[name], outs["masked, all read"], atol=1e-12)
    assert not torch.allclose(outs[DENSE], outs["masked, all read"], atol=1e-3)


def test_prompts_under_patterns_are_those_under_the_mask(layer: Layer) -> None:
    outs = {name: way() for name, way in prefill_ways(layer).items()}
    at = torch.arange(layer.tokens)
    group = layer.queries.shape[1] // layer.keys.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (layer.keys, layer.values))
    for name, pattern in PATTERNS.items():
        mask = pattern.allows(at[:, None], at) & (at <= at[:, None])
        scores = (layer.queries @ keys.transpose(-1, -2) * layer.config.scale).masked_fill(
            ~mask, float("-inf")
        )
        assert torch.allclose(outs[name], scores.softmax(-1) @ values, atol=1e-12)
        assert pairs(pattern, layer.tokens) == int(mask.sum())
    assert pairs(None, layer.tokens) == layer.tokens * (layer.tokens + 1) // 2


def test_a_run_is_recorded(tmp_path) -> None:
    out = tmp_path / "sparse.json"
    sizes = ["--contexts", "512", "--prompts", "512", "--repeats", "1", "--model", "tiny"]
    assert cli.main(["bench", "sparse", "--threads", "1", *sizes, "--out", str(out)]) == 0
    run = read_report(out)
    assert {row["kind"] for row in run.rows} == {"decode", "prefill"} and not run.errors
    assert all(row["times_dense"] == 1 for row in run.rows if row["way"] == DENSE)
    assert len(run.rows) == 6 + 1 + len(PATTERNS)


def test_what_is_too_small_is_refused(capsys) -> None:
    assert cli.main(["bench", "sparse", "--contexts", "64", "--model", "tiny"]) == 1
    assert "512 tokens or more" in capsys.readouterr().err
