"""`kvlab bench static` on a tiny model: the capacity that was asked for is what is held and read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvlab import cli
from kvlab.measure import read_report
from kvlab.measure.bench import PATH_NAMES
from kvlab.measure.paths import PATHS
from kvlab.zoo import SHAPES

FAST = ["--models", "tiny", "--device", "cpu", "--quick", "--repeats", "4"]


def test_every_way_is_measured_at_the_chosen_capacity(tmp_path: Path) -> None:
    out = tmp_path / "static.json"
    paths = ["dynamic", "static", "hf-dynamic"]
    sizes = ["--context", "20", "--capacity", "64", "--batch", "2", "--steps", "3"]
    assert cli.main(["bench", "static", *FAST, *sizes, "--paths", *paths, "--out", str(out)]) == 0
    run = read_report(out)
    assert run.bench == "static" and not run.errors and run.parameters["capacity"] == 64
    assert [row["path"] for row in run.rows] == paths
    growing, static, _ = run.rows
    c = SHAPES["tiny"]
    token = 2 * 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4  # K and V, batch, float32
    assert static["allocated_bytes"] == static["cache_bytes_read"] == 64 * token
    assert growing["stored_bytes"] == static["stored_bytes"] == 20 * token  # rewound to the prompt's end
    for row in run.rows:
        assert (row["context"], row["batch"], row["capacity"], row["steps_per_sample"]) == (20, 2, 64, 3)
        assert row["max_logit_difference"] < 1e-4 and len(row["seconds"]) == 4
        assert row["times_transformers_dynamic"] > 0


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (["--context", "60", "--capacity", "64"], "give --capacity 68 or more"),
        (["--context", "0"], "at least 1"),
        (["--batch", "-1"], "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    sizes: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--paths", "static", "--out", str(tmp_path / "x.json")]
    assert cli.main(["bench", "static", *FAST, *sizes, *out]) == 1
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


def test_the_defaults_are_512_tokens_in_1024_slots_and_all_ways() -> None:
    from kvlab.measure.bench import _parser

    args = _parser().parse_args(["static"])
    assert (args.context, args.capacity, args.batch, args.steps) == (512, 1024, 1, 8)
    assert args.paths == list(PATHS) == list(PATH_NAMES)


def test_transformers_static_cache_gets_the_same_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is left out: what its cache is made with does not depend on it."""
    import kvlab
    from kvlab.measure.paths import make_path
    from kvlab.measure.peers import transformers_twin

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    lm = kvlab.load("tiny", device="cpu")
    path = make_path("hf-compiled", lm, transformers_twin(lm))
    path.capacity = 96
    path.start(torch.ones(1, 5, dtype=torch.int64), 2)
    assert path.cache.layers[0].max_cache_len == 96
