"""kvlab against transformers, on the same weights: logits over real text, and greedy continuations."""

from __future__ import annotations

import pytest
import torch
from oracle import english, from_transformers, on_weights
from scenarios import random_weights

import kvlab
from kvlab import Cache
from kvlab.generate import pad_left
from kvlab.model import Config, Decoder, RopeScaling

TOKENS = 1280  # of real text: two and a half of Gemma's windows
PROMPTS = [
    "The cat is on the mat. The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "To make bread you need flour,",
    "The three primary colours are",
    "SELECT name FROM users WHERE",
    "My favourite season is winter, because",
    "Q: What is the largest planet?\nA:",
    "1, 2, 3, 4, 5,",
    "The old clock in the hall struck seven, and nobody in the house",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "A train leaves the station at 9:15 and arrives at 11:45. The journey takes",
    "In mathematics, a prime number is",
    "The heart has four chambers: two atria and two",
    "import os\nimport sys\n\nif __name__ ==",
    "Il etait une fois une petite fille qui",
    "Shopping list:\n- eggs\n- milk\n-",
    "She opened the letter slowly. Inside there was only one line, and it said that the whole summer",
    "Photosynthesis is the process by which plants",
    "The river rises in the mountains, crosses the plain, and after four hundred miles it reaches the",
    "Two plus two is four. Three plus three is six. Four plus four is",
]


@pytest.fixture(scope="module", params=["smollm2-135m", "gemma3-270m"])
def pair(request):
    """The same model twice: kvlab's, and transformers'."""
    ours = request.getfixturevalue({"smollm2-135m": "smollm2", "gemma3-270m": "gemma3"}[request.param])
    with torch.no_grad():
        yield ours, from_transformers(request.param)


def _before_the_head(lm: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """The residual stream after the last layer, `[batch, tokens, hidden]`, with nothing cached."""
    step = (cache := Cache(lm, store="none")).begin(ids)
    return lm.run(step, cache.layers, ids.shape[1], head=lambda head, x: x)


@pytest.mark.weights
@pytest.mark.slow
class TestRealWeights:
    def test_logits_of_real_text(self, pair) -> None:
        """All at once, and in chunks through a cache; past the window in Gemma."""
        ours, theirs = pair
        ids = torch.tensor([ours.tokenizer.encode(english(8000))[:TOKENS]])
        assert ids.shape[1] == TOKENS
        hidden = theirs.model(ids).last_hidden_state  # its logits, 1.3 GB for Gemma, are made in parts
        whole = _before_the_head(ours, ids)
        cache = Cache(ours)
        for start in range(0, TOKENS, 160):
            part = slice(start, start + 160)
            wanted = theirs.lm_head(hidden[:, part])
            assert (ours(ids[:, part], cache) - wanted).abs().max() <= 2e-3
            assert (ours.head(whole[:, part]) - wanted).abs().max() <= 2e-3

    def test_greedy_text(self, pair) -> None:
        """One batch, padded on the left, on both sides. No near ties in these prompts: none is excused."""
        ours, theirs = pair
        ids, mask = pad_left([ours.tokenizer.encode(prompt) for prompt in PROMPTS], ours)
        result = theirs.generate(
            ids,
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=24,
            output_scores=True,
            return_dict_in_generate=True,
        )
        rows = result.sequences[:, ids.shape[1] :].tolist()
        wanted = [_until_end(row, ours.config.eos_token_ids) for row in rows]
        best = torch.stack(result.scores, 1).topk(2, dim=-1).values  # [batch, steps, 2]
        gaps = (best[..., 0] - best[..., 1]).tolist()
        for prompt, row, gap in zip(PROMPTS, wanted, gaps, strict=True):
            assert min(gap[: len(row)]) > 1e-3, (
                f"{prompt!r} has a near tie, which rounding decides: take another"
            )
        found = kvlab.generate(ours, PROMPTS, Cache(ours), max_new_tokens=24, progress=False)
        assert [one.ids for one in found] == wanted


def _until_end(row: list[int], ends: tuple[int, ...]) -> list[int]:
    stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: stop + 1]


@pytest.mark.weights
@pytest.mark.slow
class TestStoresOnRealText:
    def test_every_store_says_the_same(self, smollm2) -> None:
        for prompt in PROMPTS[:2]:
            said = [
                kvlab.generate(smollm2, prompt, cache, max_new_tokens=12, compile=False, progress=False).ids
                for cache in (Cache(smollm2), Cache(smollm2, store="static", capacity=48), None)
            ]
            assert said[0] == said[1] == said[2]

    @pytest.mark.parametrize(
        ("name", "dtype"),
        [("smollm2-135m", "bfloat16"), ("smollm2-135m", "float16"), ("gemma3-270m", "bfloat16")],
    )
    def test_half_precision(self, request, name: str, dtype: str) -> None:
        """Finite, near float32, and the same text as far as rounding goes, with a cache and without."""
        exact = request.getfixturevalue({"smollm2-135m": "smollm2", "gemma3-270m": "gemma3"}[name])
        half = kvlab.load(name, device="cpu", dtype=dtype)
        assert half.dtype == getattr(torch, dtype)
        ids = torch.tensor([exact.tokenizer.encode(english(400))[:64]])
        cache = Cache(half)
        cached = torch.cat(
            [half(ids[:, :60], cache), half(ids[:, 60:63], cache), half(ids[:, 63:], cache)], 1
        )
        wanted = exact(ids)
        assert cached.dtype == half.dtype and cached.isfinite().all()
        assert (
            cache.nbytes
            == cache.logical_bytes
            == 64
            * 2
            * exact.config.num_hidden_layers
            * (exact.config.num_key_value_heads * exact.config.head_dim * 2)
        )
        for logits in (cached, half(ids)):
            assert (logits.argmax(-1) == wanted.argmax(-1)).float().mean() > 0.85
            assert (logits.float() - wanted).abs().mean() < (0.25 if dtype == "bfloat16" else 0.05)

    def test_gemma_is_too_large_for_float16(self, gemma3) -> None:
        """Its residual stream passes float16's 65,504 in every text tried, in transformers too."""
        ids = torch.tensor([gemma3.tokenizer.encode(english(400))[:64]])
        tops = []
        hooks = [
            b.register_forward_hook(lambda *a: tops.append(a[2].abs().max().item())) for b in gemma3.layers
        ]
        gemma3(ids)
        for hook in hooks:
            hook.remove()
        assert max(tops) > torch.finfo(torch.float16).max
        assert not kvlab.load("gemma3-270m", device="cpu", dtype="float16")(ids).isfinite().all()


LLAMA = Config(
    name="llama", vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=False, rope_theta=5e5,
    rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
)  # fmt: skip
GEMMA = Config(
    name="gemma", vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6, activation="gelu_tanh",
    rope_theta=1e6, rope_local_theta=1e4, rope_scaling=RopeScaling("linear", 8.0), query_scale=3**-0.5,
    layer_types=("sliding", "sliding", "full", "sliding"), sliding_window=9, qk_norm=True,
    sandwich_norms=True, norm_plus_one=True, embed_scale=32**0.5,
)  # fmt: skip


class TestSmallModels:
    """What the real ones do not have: stretched rotary frequencies, an output head of its own."""

    def compare(self, config: Config, theirs_config) -> None:
        weights = {name: w.float() for name, w in random_weights(config, 0).items()}
        ours = Decoder.from_weights(config, dict(weights))
        theirs = on_weights(theirs_config, {name: w.clone() for name, w in weights.items()})
        ids = torch.randint(0, 97, (2, 100), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = theirs(ids).logits
        assert wanted.std() > 1
        assert (ours(ids) - wanted).abs().max() < 1e-3

    def test_llama_with_stretched_frequencies(self) -> None:
        from transformers import LlamaConfig

        scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope = {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 64, **scaling}
        self.compare(LLAMA, LlamaConfig(**_numbers(LLAMA), rope_parameters=rope, rms_norm_eps=1e-5))

    def test_gemma_with_stretched_full_layers(self) -> None:
        from transformers import Gemma3TextConfig

        rope = {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
        types = [f"{kind}_attention" for kind in GEMMA.layer_types]
        shape = {"layer_types": types, "sliding_window": 9, "query_pre_attn_scalar": 3}
        self.compare(GEMMA, Gemma3TextConfig(**_numbers(GEMMA), rope_parameters=rope, **shape))


def _numbers(config: Config) -> dict[str, object]:
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "tie_word_embeddings",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}
