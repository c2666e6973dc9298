"""Folders in Hugging Face's layout: what transformers saves, kvlab loads, with the same logits."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kvlab
from kvlab.zoo import ModelError
from kvlab.zoo.hf_config import config_from_json

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GEMMA = {
    "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 20,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
OLD_GEMMA = SIZES | {
    "architectures": ["Gemma3ForCausalLM"], "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16,
    "sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 2e4,
    "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}  # fmt: skip


def _transformers(kind: str):
    """A small random model of transformers."""
    import transformers as hf

    torch.manual_seed(0)
    config, model = {
        "llama": (hf.LlamaConfig(**SIZES), hf.LlamaForCausalLM),
        "llama-tied": (hf.LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=12), hf.LlamaForCausalLM),
        "llama3.1": (hf.LlamaConfig(**SIZES, rope_parameters=LLAMA3), hf.LlamaForCausalLM),
        "llama-linear": (hf.LlamaConfig(**SIZES, rope_parameters=LINEAR), hf.LlamaForCausalLM),
        "mistral": (hf.MistralConfig(**SIZES, sliding_window=None), hf.MistralForCausalLM),
        "mistral-window": (hf.MistralConfig(**SIZES, sliding_window=5), hf.MistralForCausalLM),
        "gemma3": (hf.Gemma3TextConfig(**SIZES, **GEMMA), hf.Gemma3ForCausalLM),
    }[kind]
    lm = model(config).eval().float()
    for name, parameter in lm.named_parameters():  # norms of 1 and 0 would hide a swapped norm
        parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return lm


KINDS = ["llama", "llama-tied", "llama3.1", "llama-linear", "mistral", "mistral-window", "gemma3"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_transformers(kind, tmp_path):
    theirs = _transformers(kind)
    theirs.save_pretrained(tmp_path, max_shard_size="20kB" if kind == "llama" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (kind == "llama")
    ours = kvlab.load(tmp_path, device="cpu")
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids), expected, rtol=0, atol=2e-4)
    assert ours.config.eos_token_ids == (2,) and ours.tokenizer is None


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small checkpoint."""
    _transformers("llama").save_pretrained(tmp_path)
    return tmp_path


def _change(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_tokenizer_and_generation_config_are_read(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "the": 3, "cat": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    lm = kvlab.load(str(folder), device="cpu")
    assert lm.tokenizer.encode("the cat") == [3, 4]
    assert lm.tokenizer.eos_ids == (2, 7)


def test_dtype_of_the_file_is_changed_on_request(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, folder / "model.safetensors")
    assert kvlab.load(folder, device="cpu").dtype == torch.float32
    assert kvlab.load(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "architecture", ["Qwen2ForCausalLM", "GPT2LMHeadModel", "Gemma3ForConditionalGeneration", "T5Model"]
)
def test_other_architectures_are_refused_by_name(folder, architecture):
    _change(folder, architectures=[architecture])
    with pytest.raises(ModelError, match=f"is a {architecture}; kvlab's decoder runs LlamaForCausalLM"):
        kvlab.load(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attention_bias": True}, "sets attention_bias"),
        ({"mlp_bias": True}, "sets mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "sets quantization_config"),
        ({"hidden_act": "relu"}, "activation 'relu'; kvlab has silu, gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "by 'yarn'; kvlab has 'linear'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2}}, "by 'dynamic'"),
        ({"num_key_value_heads": 3}, "contradicts itself: .*cannot share"),
        ({"num_hidden_layers": 5}, "lacks 9 tensors that its config asks for, first layers.4"),
        ({"num_hidden_layers": 3}, "has 9 tensors that kvlab's decoder has no place for, first layers.3"),
        ({"vocab_size": 95}, r"embed_tokens.weight of .* is \(96, 32\); its config asks for \(95, 32\)"),
    ],
)
def test_configs_that_cannot_work_say_why(folder, changes, message):
    _change(folder, **changes)
    with pytest.raises(ModelError, match=message):
        kvlab.load(folder)


def test_a_config_that_lacks_a_number(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks 'hidden_size'"):
        kvlab.load(folder)


def test_older_configs_name_things_otherwise():
    config = config_from_json(OLD_GEMMA, "old")
    assert config.layer_types == ("sliding", "full", "sliding", "full")
    assert (config.rope_theta, config.rope_local_theta) == (1e6, 2e4)
    assert config.rope_scaling is not None and config.rope_scaling.factor == 8.0
    llama = config_from_json(SIZES | {"architectures": ["LlamaForCausalLM"], "rope_theta": 5e5}, "old")
    assert llama.rope_theta == 5e5 and llama.rope_scaling is None and llama.head_dim == 8


class Bomb:
    """Unpickling it ends the test run."""

    def __reduce__(self):
        return sys.exit, ("a pickle was opened",)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_refused_unopened(folder, file):
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="pickle files.*kvlab reads only safetensors"):
        kvlab.load(folder)


def test_pickles_beside_safetensors_are_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert kvlab.load(folder, device="cpu").config.hidden_size == 32


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "does not hold a JSON object"),
        ("model.safetensors", None, r"has no \*.safetensors"),
        ("model.safetensors", b"\x08", "damaged or cut short"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "1.safetensors"}}', "lacks 1.safetensors"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}', "outside its folder"),
    ],
)
def test_damaged_folders(folder, file, content, message):
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        kvlab.load(folder)


class Hub:
    """Stands in for huggingface_hub's two functions; copies from a folder what the patterns allow."""

    def __init__(self, source: Path, target: Path):
        self.source, self.target, self.asked = source, target, []

    def hf_hub_download(self, repository: str, file: str) -> str:
        self.asked.append((repository, file))
        self.target.mkdir(exist_ok=True)
        (self.target / file).write_bytes((self.source / file).read_bytes())
        return str(self.target / file)

    def snapshot_download(self, repository: str, allow_patterns: list[str]) -> str:
        self.asked.append((repository, "weights"))
        for path in self.source.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                (self.target / path.name).write_bytes(path.read_bytes())
        return str(self.target)


@pytest.fixture
def hub(folder, monkeypatch, tmp_path_factory) -> Hub:
    """A hub that has the small checkpoint, and a pickle that nobody should ask for."""
    import huggingface_hub

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    hub = Hub(folder, tmp_path_factory.mktemp("hub") / "snapshot")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_hub_models_load_without_their_pickles(hub, folder):
    lm = kvlab.load("hf:someone/small-llama", device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(lm(ids), kvlab.load(folder, device="cpu")(ids))
    assert lm.config.name == "someone/small-llama"
    assert not list(hub.target.glob("*.bin"))


def test_hub_models_of_other_architectures_are_refused_before_their_weights_come(hub, folder):
    _change(folder, architectures=["Qwen2ForCausalLM"])
    with pytest.raises(ModelError, match="someone/qwen is a Qwen2ForCausalLM"):
        kvlab.load("hf:someone/qwen")
    assert hub.asked == [("someone/qwen", "config.json")]


def test_hub_out_of_reach(monkeypatch):
    import huggingface_hub

    def fail(*args: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection and not in the cache\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"cannot be had .*\(no connection and not in the cache\)\. Check"):
        kvlab.load("hf:someone/small-llama")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="'huggingface_hub' is not installed"):
        kvlab.load("hf:someone/small-llama")
