"""`kvlab bench`: every subcommand on tiny models. No test looks at how long anything took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab import cli
from kvlab.measure import gpu, gpu_attention, read_report
from kvlab.measure.decode import Point, prompt
from kvlab.measure.gpu_parts import PARTS
from kvlab.measure.paths import PATHS, make_path
from kvlab.measure.peers import transformers_twin
from kvlab.model.attention import attend

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
FAST = ["--models", "tiny", "--device", "cpu", "--quick", "--repeats", "4"]


def bench(*argv: str) -> int:
    return cli.main(["bench", *argv])


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_the_peer_computes_the_same_on_the_same_memory(name: str) -> None:
    lm = kvlab.load(name, device="cpu")
    twin = transformers_twin(lm)
    ids = torch.randint(0, 256, (2, 23), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(twin(ids).logits, lm(ids), atol=2e-5, rtol=1e-4)
    ours = lm.layers[1].mlp.down_proj.weight
    assert twin.model.layers[1].mlp.down_proj.weight.data_ptr() == ours.data_ptr()
    assert not any(t.device.type == "meta" for t in (*twin.parameters(), *twin.buffers()))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [n for n in PATHS if "compiled" not in n])
def test_every_path_takes_the_same_steps_again_after_rewinding(name: str, batch: int) -> None:
    lm = kvlab.load("tiny", device="cpu")
    path = make_path(name, lm, transformers_twin(lm))
    ids = prompt(lm, Point(9, batch, 4, 1))
    path.start(ids, 4)
    first = path.run(4).clone()
    path.rewind()
    torch.testing.assert_close(path.run(4), first, atol=1e-5, rtol=1e-5)
    path.rewind()
    # Greedy by hand, everything computed again at every step.
    for _ in range(4):
        ids = torch.cat((ids, lm(ids)[:, -1:].argmax(-1)), dim=1)
    torch.testing.assert_close(path.run(4), lm(ids, last_only=True), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled", "hf-compiled"])
def test_compiled_paths_take_the_same_steps(name: str) -> None:
    lm = kvlab.load("tiny", device="cpu")
    twin = transformers_twin(lm)
    ids = prompt(lm, Point(9, 1, 3, 1))
    path, plain = make_path(name, lm, twin), make_path("dynamic", lm, twin)
    path.start(ids, 3)
    plain.start(ids, 3)
    expected = plain.run(3)
    for _ in range(2):
        torch.testing.assert_close(path.run(3), expected, atol=1e-4, rtol=1e-4)
        path.rewind()


def test_decode_writes_every_path_and_compares_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "decode.json"
    paths = ["naive", "dynamic", "static", "hf-dynamic"]
    contexts = ["--contexts", "8", "20", "--batches", "1", "2", "--steps", "2"]
    assert bench("decode", *FAST, *contexts, "--paths", *paths, "--out", str(out)) == 0
    run = read_report(out)
    assert run.bench == "decode" and not run.errors
    assert run.parameters["contexts"] == [8, 20] and run.parameters["ceilings"]["read"] > 0
    assert [(r["context"], r["batch"], r["path"]) for r in run.rows] == [
        (context, batch, path) for context in (8, 20) for batch in (1, 2) for path in paths
    ]
    for row in run.rows:
        assert row["max_logit_difference"] < 1e-4
        assert len(row["seconds"]) == (3 if row["path"] == "naive" else 4)
        assert row["tokens_per_second"] == pytest.approx(row["batch"] / row["median"])
        assert row["bound_fraction"] == pytest.approx(row["bound_seconds"] / row["median"])
    point = run.rows[:4]
    theirs = next(r for r in point if r["path"] == "hf-dynamic")
    assert max(r["times_fastest"] for r in point) == 1.0
    assert all(r["times_transformers_dynamic"] == theirs["median"] / r["median"] for r in point)
    shown = capsys.readouterr().out
    assert "kvlab dynamic" in shown and "transformers DynamicCache" in shown and "decode.json" in shown


def test_a_path_that_fails_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(PATHS["static"], "prefill", broken)
    out = tmp_path / "x.json"
    arguments = [*FAST, "--contexts", "8", "--paths", "static", "dynamic", "--out", str(out)]
    assert bench("decode", *arguments) == 1
    run = read_report(out)
    assert [row["path"] for row in run.rows] == ["dynamic"]
    assert "kvlab static" in run.errors[0] and "no such luck" in run.errors[0]


def test_without_transformers_its_rows_are_missing_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvlab.measure import decode

    def missing(lm: object) -> None:
        raise ImportError("transformers")

    monkeypatch.setattr(decode, "transformers_twin", missing)
    out = tmp_path / "x.json"
    arguments = [*FAST, "--contexts", "8", "--paths", "dynamic", "hf-dynamic", "--out", str(out)]
    assert bench("decode", *arguments) == 0
    run = read_report(out)
    assert [row["path"] for row in run.rows] == ["dynamic"]
    assert run.notes == ["transformers is not installed: its rows are missing."]


def test_prefill_counts_tokens_and_flops(tmp_path: Path) -> None:
    assert bench("prefill", *FAST, "--contexts", "16", "--batches", "2", "--out", str(tmp_path)) == 0
    (file,) = tmp_path.glob("prefill-cpu-*.json")
    run = read_report(file)
    assert [row["label"] for row in run.rows] == ["kvlab dynamic", "transformers DynamicCache"]
    for row in run.rows:
        assert row["tokens_per_second"] == pytest.approx(32 / row["median"])
        assert row["flops_per_second"] == pytest.approx(row["flops"] / row["median"])


def test_load_measures_in_fresh_processes(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    assert bench("load", "--models", "tiny", "--device", "cpu", "--repeats", "1", "--out", str(out)) == 0
    (row,) = read_report(out).rows
    assert row["what"] == "later" and len(row["seconds"]) == len(row["import_seconds"]) == 1


@pytest.mark.weights
@pytest.mark.slow
def test_load_converts_into_a_folder_of_its_own(tmp_path: Path) -> None:
    from kvlab.zoo.paths import model_folder

    kept = model_folder("smollm2-135m")
    before = {p.name: p.stat().st_mtime_ns for p in kept.iterdir()}
    out = tmp_path / "load.json"
    arguments = ["--models", "smollm2-135m", "--device", "cpu", "--repeats", "1", "--out", str(out)]
    assert bench("load", *arguments) == 0
    assert [row["what"] for row in read_report(out).rows] == ["first: verify, convert, load", "later"]
    assert {p.name: p.stat().st_mtime_ns for p in kept.iterdir()} == before


def test_a_model_that_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("load", "--models", "tinny", "--repeats", "1", "--out", str(tmp_path)) == 1
    assert "There is no model 'tinny'" in capsys.readouterr().err


def test_ceilings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("ceilings", "--device", "cpu", "--quick", "--out", str(tmp_path / "c.json")) == 0
    run = read_report(tmp_path / "c.json")
    assert set(run.parameters["best"]) == {"copy", "read", "matmul"}
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["decode", "--contexts", "0"],
        ["decode", "--paths", "psychic"],
        ["prefill", "--dtype", "int3"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench(*argv)
    assert stop.value.code == 2


def test_random_weights_for_shapes(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    arguments = ["--models", "random:tiny-gemma3", "--device", "cpu", "--quick", "--repeats", "1"]
    assert bench("decode", *arguments, "--contexts", "12", "--paths", "dynamic", "--out", str(out)) == 0
    assert read_report(out).rows[0]["model"] == "random:tiny-gemma3"


@WITHOUT_GPU
def test_gpu_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("gpu", "--out", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "CUDA GPU" in said and "80 GB" in said and "--allow-cpu" in said
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_gpu_runs_every_part_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("gpu", "--allow-cpu", "--out", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    for name in PARTS:
        run = read_report(tmp_path / f"gpu-{name}.json")
        assert run.bench == f"gpu {name}" and run.rows and not run.errors, name
        assert f"gpu-{name}.json" in shown
    held = read_report(tmp_path / "gpu-hold-100k.json")
    assert held.parameters["prefilled_tokens"] + held.parameters["written_tokens"] == 96
    assert held.rows[0]["stored_bytes"] == held.rows[0]["logical_bytes"] == 96 * 2 * 4 * 2 * 16 * 4
    grown = {row["store"]: row for row in read_report(tmp_path / "gpu-growth.json").rows}
    per_token = 2 * 4 * 2 * 16 * 4
    # 16 tokens there, 8 appended: concatenation moves 16, 17 … 23 tokens, doubling 16 once, static none.
    assert grown["concatenation (growth 1.0)"]["copied_bytes"] == sum(range(16, 24)) * per_token
    assert grown["doubling (growth 2.0)"]["copied_bytes"] == 16 * per_token
    assert grown["preallocated (static)"]["copied_bytes"] == 0
    for row in read_report(tmp_path / "gpu-attention.json").rows:
        assert row["relative_error"] < 1e-5
    for part in ("quantized", "pages", "prefill"):
        assert all(row["kernel_error"] < 1e-5 for row in read_report(tmp_path / f"gpu-{part}.json").rows)
    together = {row["way"]: row for row in read_report(tmp_path / "gpu-together.json").rows}
    assert "int4 + SnapKV + Quest" in together
    assert all(row["seconds"] and row["bytes"] and row["served"] for row in together.values())


BARE = """
import sys
from importlib.machinery import PathFinder
extras = {"transformers", "triton", "gguf", "safetensors", "tokenizers", "matplotlib", "tqdm", "ipywidgets"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in extras else find(name, *rest)
from kvlab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@WITHOUT_GPU
def test_gpu_needs_pytorch_and_numpy_only(tmp_path: Path) -> None:
    command = ["bench", "gpu", "--allow-cpu", "--only", "decode-smollm2,quantized", "--out", str(tmp_path)]
    bare = subprocess.run([sys.executable, "-c", BARE, *command], capture_output=True, text=True)
    assert bare.returncode == 0, bare.stderr
    timed = read_report(tmp_path / "gpu-decode-smollm2.json")
    assert {row["path"] for row in timed.rows} == {"naive", "dynamic", "static"}
    assert "transformers is not installed: its rows are missing." in timed.notes
    assert read_report(tmp_path / "gpu-quantized.json").notes == ["skipped: Triton is not installed."]
    header, _, decoded, skipped, where = bare.stdout.strip().splitlines()[-5:]
    assert header.split() == ["part", "state", "seconds", "file"] and where.startswith("written to")
    assert decoded.split()[:2] == ["decode-smollm2", "done"] and skipped.split()[:2] == [
        "quantized",
        "skipped",
    ]


@WITHOUT_GPU
def test_gpu_takes_the_parts_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("gpu", "--allow-cpu", "--only", "growth,memory", "--out", str(tmp_path)) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu-growth.json", "gpu-memory.json"]
    assert bench("gpu", "--allow-cpu", "--only", "grwth", "--out", str(tmp_path)) == 1
    assert "there is no part 'grwth'" in capsys.readouterr().err


def run_of(tmp_path: Path, **changes) -> gpu.Run:
    return gpu.Run(gpu.tiny_plan(), tmp_path, "python -m kvlab bench gpu", **changes)


def test_a_failing_part_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    def fails(run: gpu.Run, report) -> str:
        report.add(point=1)
        raise RuntimeError("out of memory, say")

    def works(run: gpu.Run, report) -> str:
        report.add(point=2)
        return "a table"

    said: list[str] = []
    run = run_of(tmp_path)
    assert gpu.run_parts(run, {"fails": fails, "works": works}, said.append) == 1
    assert [row["state"] for row in run.status] == ["with errors", "done"]
    kept = json.loads((tmp_path / "gpu-fails.json").read_text())
    assert kept["errors"] == ["fails: RuntimeError: out of memory, say"] and kept["rows"] == [{"point": 1}]
    assert "a table" in said and "[fails] fails: RuntimeError: out of memory, say" in said


def test_nothing_is_begun_after_the_time(tmp_path: Path) -> None:
    run = run_of(tmp_path, end=0.0)
    assert gpu.run_parts(run, {"late": lambda run, report: pytest.fail("was begun")}, lambda text: None) == 1
    assert run.status[0]["state"] == "not begun"
    assert read_report(tmp_path / "gpu-late.json").errors == ["not begun: the time was out (--minutes)"]


def test_a_lost_gpu_hands_on_the_parts_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "healthy", lambda device: False)

    def breaks(run: gpu.Run, report) -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    parts = {"breaks": breaks, "next": breaks, "last": breaks}
    with pytest.raises(gpu.DeviceLost) as lost:
        gpu.run_parts(run_of(tmp_path), parts, lambda text: None)
    assert lost.value.parts == ["next", "last"]
    assert "illegal memory access" in read_report(tmp_path / "gpu-breaks.json").errors[0]


def test_the_prefill_of_a_long_text_gives_way_to_writing(tmp_path: Path) -> None:
    from kvlab.measure.gpu_memory import _fill

    lm = kvlab.load("tiny", device="cpu")
    cache = kvlab.Cache(lm, store="static", capacity=128)
    found = _fill(lm, cache, tokens=100, chunk=10, seconds=0.0)
    assert found["prefilled_tokens"] == 20 and found["written_tokens"] == 80
    assert "written" in found["filled"]
    assert int(cache.tokens_seen) == 100 and bool(
        (cache.layers[3].keys.read()[0, 0, :100] != 0).any(-1).all()
    )
    lm(torch.zeros(1, 1, dtype=torch.int64), cache)  # and it goes on from there
    assert cache.used == 101


def test_the_full_plan_names_real_shapes_and_paths() -> None:
    from kvlab.zoo import SHAPES

    for plan in (gpu.full_plan(), gpu.full_plan(quick=True)):
        assert {plan.small, plan.mha, plan.gqa} <= set(SHAPES)
        assert SHAPES[plan.mha].groups == 1 < SHAPES[plan.gqa].groups
        for _, _, paths in (*plan.small_points, *plan.mha_points):
            assert set(paths) <= set(PATHS)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("way", [gpu_attention.products, gpu_attention.sums, gpu_attention.flex])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_every_way_to_attend_is_attention_under_a_mask(way, heads: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, 1, 16, generator=generator)
    keys, values = (torch.randn(2, kv_heads, 37, 16, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 1, 37, generator=generator) < 0.7
    expected = attend(q, keys, values, mask, 0.25)
    torch.testing.assert_close(way(q, keys, values, mask, 0.25), expected, atol=1e-5, rtol=1e-4)
