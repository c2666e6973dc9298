"""The converted weights are, number for number, those that transformers reads from the same GGUF file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo_fakes
from gguf import GGUFReader

from kvlab import zoo
from kvlab.model import Config
from kvlab.zoo.catalogue import CATALOGUE
from kvlab.zoo.gguf_header import read_header


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_tensor_equals_transformers(name):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    path = zoo.gguf_file(name)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    expected = {key.removeprefix("model."): value for key, value in theirs.state_dict().items()}
    ours = load_file(zoo.fetch(name) / "model.safetensors")
    if CATALOGUE[name].config.tie_word_embeddings:
        assert torch.equal(expected.pop("lm_head.weight"), expected["embed_tokens.weight"])
    assert ours.keys() == expected.keys()
    for key, weight in ours.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, expected[key]), key
    assert_same_shape(CATALOGUE[name].config, theirs.config)


def assert_same_shape(ours: Config, theirs) -> None:
    """The catalogue's numbers against those that transformers made of the same file."""
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "head_dim", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "bos_token_id",
    )  # fmt: skip
    for field in same:
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.rms_norm_eps == pytest.approx(theirs.rms_norm_eps, rel=1e-6)
    if ours.sliding_window:
        assert ours.sliding_window == theirs.sliding_window
        assert [f"{kind}_attention" for kind in ours.layer_types] == theirs.layer_types
        assert ours.query_scale == theirs.query_pre_attn_scalar**-0.5


@pytest.mark.weights
@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_agrees_with_the_file(name):
    config, header = CATALOGUE[name].config, read_header(zoo.gguf_file(name))
    said = {key.partition(".")[2]: value for key, value in header.metadata.items()}
    assert said["block_count"] == config.num_hidden_layers
    assert said["embedding_length"] == config.hidden_size
    assert said["feed_forward_length"] == config.intermediate_size
    assert said["attention.head_count"] == config.num_attention_heads
    assert said["attention.head_count_kv"] == config.num_key_value_heads
    assert said["context_length"] == config.max_position_embeddings
    assert said["rope.freq_base"] == config.rope_theta
    assert said["attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps, rel=1e-6)
    assert said.get("attention.sliding_window") == config.sliding_window
    assert said["ggml.bos_token_id"] == config.bos_token_id
    assert (said["ggml.eos_token_id"],) == config.eos_token_ids
    assert said["ggml.padding_token_id"] == config.pad_token_id
    assert len(said["ggml.tokens"]) == config.vocab_size


def test_header_agrees_with_the_gguf_package(tmp_path):
    zoo_fakes.write_gguf(tmp_path / "fake.gguf")
    header, reader = read_header(tmp_path / "fake.gguf"), GGUFReader(tmp_path / "fake.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == fields
    assert len(header.tensors) == len(reader.tensors) == 20
    for tensor in reader.tensors:
        info = header.tensors[tensor.name]
        assert info.shape == tuple(tensor.shape)[::-1]
        assert (info.kind, info.offset) == (tensor.tensor_type, tensor.data_offset)


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + bytes(60), b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 40])
def test_what_is_no_gguf_is_said_to_be_none(tmp_path, content):
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(zoo.ModelError, match="broken.gguf is not a.* GGUF file; remove it"):
        read_header(tmp_path / "broken.gguf")


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3, "layer_types": ()}, {"intermediate_size": 32}])
def test_a_file_of_another_shape_is_refused(tmp_path, change):
    path = tmp_path / "fake.gguf"
    zoo_fakes.write_gguf(path)
    with pytest.raises(zoo.ModelError, match="does not fit the shape fake-llama"):
        zoo.convert.read_weights(path, read_header(path), zoo_fakes.LLAMA.replace(**change))


def test_undoing_the_rewriting_by_hand():
    """Two heads of four rows: llama.cpp stores rows 0 2 1 3 of each; Gemma's norms carry a one."""
    undo = zoo.convert._undo_rewriting
    config = zoo_fakes.LLAMA.replace(head_dim=4)
    stored = np.array([[0, 2, 1, 3, 4, 6, 5, 7]], dtype=np.float32).T
    assert undo("layers.0.self_attn.q_proj.weight", stored, config, "llama").ravel().tolist() == [*range(8)]
    assert undo("layers.0.self_attn.v_proj.weight", stored, config, "llama") is stored
    assert undo("layers.0.self_attn.q_proj.weight", stored, config, "gemma3") is stored
    assert undo("norm.weight", np.array([1.5], np.float32), config, "gemma3").tolist() == [0.5]
    assert undo("norm.weight", np.array([1.5], np.float32), config, "llama").tolist() == [1.5]
