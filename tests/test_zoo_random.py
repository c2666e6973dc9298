"""Shapes, `kvlab.random`, `kvlab.load("tiny")`, and names that mean nothing."""

from __future__ import annotations

import math
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kvlab
from kvlab import zoo
from kvlab.zoo import SHAPES, ModelError, weight_shapes
from kvlab.zoo.shapes import count_weights

# Parameter counts that the Hugging Face hub shows for each checkpoint (tied embeddings once).
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "gemma3-270m": 268_098_176,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "gemma-2b": 2_506_172_416,
    "qwen3-8b": 8_190_735_360,
    "gemma3-27b": 27_432_406_640 - 423_060_336,  # less the vision tower and its projector
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_names_its_source_and_has_its_published_size(name):
    assert SHAPES[name].source
    if name.startswith("tiny"):
        assert 100_000 < count_weights(SHAPES[name]) < 1_000_000
    else:
        assert count_weights(SHAPES[name]) == PUBLISHED[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_decoder_has_exactly_these_tensors(name):
    lm = kvlab.random(name, device="meta", dtype="bfloat16")
    assert {key: tuple(p.shape) for key, p in lm.named_parameters()} == weight_shapes(SHAPES[name])
    assert {p.dtype for p in lm.parameters()} == {torch.bfloat16}


def test_llama2_7b_in_bfloat16_takes_13_5_gb():
    lm = kvlab.random("llama2-7b", device="meta", dtype="bfloat16")
    assert sum(p.nbytes for p in lm.parameters()) == 2 * 6_738_415_616


class Largest(TorchDispatchMode):
    """Remembers the largest tensor of each dtype that an operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in [out] if isinstance(out, torch.Tensor) else []:
            if tensor.device.type != "meta":
                self.bytes[tensor.dtype] = max(self.bytes.get(tensor.dtype, 0), tensor.nbytes)
        return out


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_weights_are_made_in_their_dtype_without_a_float32_copy(name):
    with Largest() as seen:
        lm = kvlab.random(name, device="cpu", dtype="bfloat16")
    fused = max(matrix.nbytes for block in lm.layers for matrix in (block.self_attn.qkv, block.mlp.gate_up))
    assert seen.bytes[torch.bfloat16] == max(lm.embed_tokens.weight.nbytes, fused)
    assert seen.bytes.get(torch.float32, 0) <= 4 * lm.config.hidden_size  # norms and rotary frequencies


FUSED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def test_given_tensors_are_used_and_only_the_fused_ones_copied():
    from kvlab.model import Decoder
    from kvlab.zoo.load import random_weights

    weights = random_weights(SHAPES["tiny"], torch.device("cpu"), torch.float32)
    given = {name: p.data_ptr() for name, p in weights.items()}
    originals = [weakref.ref(p) for name, p in weights.items() if name.split(".")[-2] in FUSED]
    lm = Decoder.from_weights(SHAPES["tiny"], weights)
    assert weights == {} and len(originals) == 5 * lm.config.num_hidden_layers
    assert all(original() is None for original in originals)  # nothing is held twice
    for name, p in lm.named_parameters():
        assert name.split(".")[-2] in FUSED or p.data_ptr() == given[name]
    for block in lm.layers:
        assert block.self_attn.k_proj.weight.untyped_storage().data_ptr() == block.self_attn.qkv.data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", torch.float16])
@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_random_models_run_in_every_dtype(name, dtype):
    lm = kvlab.random(name, device="cpu", dtype=dtype)
    assert lm.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    logits = lm(torch.tensor([lm.tokenizer.encode("The cat is on the mat.")]))
    assert logits.isfinite().all() and 0.01 < logits.std() < 10


def test_seeds():
    def first(seed: int) -> torch.Tensor:
        return kvlab.random("tiny", device="cpu", seed=seed).embed_tokens.weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    drawn = kvlab.random("tiny", device="cpu").layers[1].mlp.up_proj.weight
    assert math.isclose(drawn.std(), 0.02, rel_tol=0.05) and abs(drawn.mean()) < 0.001


def test_a_config_is_a_shape_too():
    config = SHAPES["tiny"].replace(num_key_value_heads=1)
    assert kvlab.random(config, device="cpu").config is config


@pytest.mark.parametrize("name", ["tiny", "tiny-gemma3"])
def test_tiny_answers_to_its_whole_context(name):
    """A fallback whose logits hardly depend on the past would hide every mistake with a cache."""
    lm = kvlab.load(name, device="cpu")
    ids = torch.tensor([lm.tokenizer.encode("The cat is on")])
    other = ids.clone()
    other[0, -4] = 120  # inside tiny-gemma3's window of 8
    assert 0.5 < lm(ids).std() < 10
    assert (lm(ids)[0, -1] - lm(other)[0, -1]).abs().max() > 0.1
    assert torch.equal(lm(ids), kvlab.load(name, device="cpu")(ids))


def test_defaults():
    lm = kvlab.load("tiny")
    assert lm.dtype == torch.float32
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_names():
    assert set(zoo.names()) == {"smollm2-135m", "gemma3-270m", "tiny", "tiny-gemma3", "translator"}
    assert set(zoo.shapes()) == set(SHAPES)


@pytest.mark.parametrize(
    "name, message",
    [
        ("smolm2-135m", "no model 'smolm2-135m'; did you mean 'smollm2-135m'?"),
        ("Gemma3", "did you mean 'gemma3-270m'"),
        ("gpt5", "there are gemma3-270m, smollm2-135m, tiny, tiny-gemma3, translator"),
        ("llama2-7b", r'no weights of llama2-7b; kvlab.random\("llama2-7b"\)'),
        ("org/name", 'no folder org/name.*"hf:org/name"'),
        ("./nowhere", "no folder ./nowhere"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ModelError, match=message):
        kvlab.load(name)


def test_unknown_shape_device_and_dtype():
    with pytest.raises(ModelError, match="no shape 'llama3-7b'; did you mean 'llama"):
        kvlab.random("llama3-7b")
    with pytest.raises(ModelError, match="no dtype 'int8'; use one of float32, bfloat16, float16, float64"):
        kvlab.load("tiny", dtype="int8")
    with pytest.raises(ModelError, match="no dtype torch.int64"):
        kvlab.load("tiny", dtype=torch.int64)
    with pytest.raises(ModelError, match="no device 'gpu'"):
        kvlab.load("tiny", device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none():
    with pytest.raises(ModelError, match='no CUDA device here; use device="cpu"'):
        kvlab.load("tiny", device="cuda")


def test_too_large_for_the_device(monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ModelError, match="llama2-7b in bfloat16 takes 13.5 GB, more than cpu has free"):
        kvlab.random("llama2-7b", device="cpu", dtype="bfloat16")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_on_cuda_needs_no_more_than_the_weights():
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    lm = kvlab.random("smollm2-135m", device="cuda", dtype="bfloat16")
    weights = sum(p.nbytes for p in lm.parameters())
    assert torch.cuda.max_memory_allocated() - before < 1.02 * weights


def test_importing_kvlab_needs_torch_and_numpy_only():
    optional = ["safetensors", "tokenizers", "gguf", "tqdm", "huggingface_hub", "transformers", "matplotlib"]
    code = (
        f"import sys\nfor m in {optional}: sys.modules[m] = None\n"
        "import kvlab\nkvlab.load('tiny', device='cpu')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
