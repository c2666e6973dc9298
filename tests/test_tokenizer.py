"""Ids are transformers' ids, on ordinary and on nasty text."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvlab import zoo
from kvlab.zoo import ByteTokenizer, ModelError
from kvlab.zoo.catalogue import CATALOGUE

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n\n", "\t", "\t\t x", "\r\n", " \n \n ", " " * 17,
    " " * 64 + "x", "The cat is on the mat.", " leading", "trailing ", "two  spaces",
    "don't won't I'll they've", "naïve café", "1", "12", "1234567890", "a1b2", "3.14159", "1,000,000",
    "1.\n\n2.\n\n3", "x  42", "\n\n7", "2024-02-29",
    "def f(x):\n    return x ** 2\n\n\tif x != 0:\n        pass  # done\n", "{\"a\": [1, 2, {}]}",
    "a_b-c/d\\e", "猫坐在垫子上。", "日本語のテキスト", "한국어", "中文 and English 混合 text",
    "全角\u3000空格", "繁體字與简体字", "Привет, мир", "مرحبا بالعالم", "שלום", "नमस्ते", "ไทย",
    "Ελληνικά", "Việt Nam", "İıŞş", "🙂", "👍🏽", "👩\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈",
    "🇨🇭🇨🇳", "e\u0301 vs \u00e9", "a\u0300\u0301\u0302", "\u200b\u200d\ufeff", "\u00a0nbsp",
    "ｆｕｌｌｗｉｄｔｈ", "ﬁ ﬂ", "\U00010348\U0001d4d0", "\u2028\u2029", "\x00\x01\x7f", "\ufffd",
    "▁▁x▁", "Ġ Ċ", "<0x41>", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "a<|im_end|>b",
    "<|im_start", "<|im_start|><|im_start|>", "<bos>", "<eos>x<pad>", "<unk>", "<mask>",
    "<start_of_turn>user\nhi<end_of_turn>\n", "<unused7>", "[multimodal]", "<h1>title</h1><table><tr>",
    "<file_sep>x<repo_name>", "< bos >", "https://example.org/a?b=c&d=%20#e",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "!!!???...", "----====----", "x" * 300, "word " * 50,
    "é" * 50,
]  # fmt: skip


def _oracle(name: str):
    from transformers import AutoTokenizer

    path = zoo.gguf_file(name)
    assert not (path.parent / "tokenizer.json").exists()  # else transformers would read ours
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="module", params=list(CATALOGUE))
def pair(request):
    """kvlab's tokenizer and transformers', made from the same file."""
    entry = CATALOGUE[request.param]
    folder = zoo.fetch(request.param)
    ours = zoo.PieceTokenizer.from_file(folder / "tokenizer.json", entry.config, entry.chat_system)
    return ours, _oracle(request.param)


@pytest.mark.slow
@pytest.mark.weights
class TestAgainstTransformers:
    def test_tricky_texts(self, pair):
        ours, theirs = pair
        for text in TEXTS:
            assert ours.encode(text) == theirs(text).input_ids, repr(text)
            plain = theirs(text, add_special_tokens=False).input_ids
            assert ours.encode(text, bos=False) == plain, repr(text)

    def test_texts_glued_together(self, pair):
        ours, theirs = pair
        rng = random.Random(0)
        for _ in range(300):
            text = "".join(rng.choices(TEXTS, k=rng.randint(2, 4)))
            assert ours.encode(text) == theirs(text).input_ids, repr(text)

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def test_any_text(self, pair, text):
        ours, theirs = pair
        assert ours.encode(text) == theirs(text).input_ids

    def test_decoding(self, pair):
        ours, theirs = pair
        for text in TEXTS:
            ids = ours.encode(text)
            for special in (False, True):
                expected = theirs.decode(ids, skip_special_tokens=not special)
                assert ours.decode(ids, special=special) == expected, repr(text)

    def test_special_ids(self, pair):
        ours, theirs = pair
        assert ours.bos_id == theirs.bos_token_id
        assert ours.eos_ids == (theirs.eos_token_id,)
        assert ours.pad_id == theirs.pad_token_id

    def test_chat(self, pair):
        ours, theirs = pair
        question = [{"role": "user", "content": "What is 2+2?"}]
        answer = {"role": "assistant", "content": "4"}
        talk = [{"role": "system", "content": "Be brief."}, *question, answer, *question]
        if theirs.chat_template is None:
            with pytest.raises(ModelError, match="no chat format"):
                ours.chat(question)
            return
        for messages in (question, talk):
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert ours.chat(messages) == expected


@pytest.mark.weights
def test_text_survives_a_round_trip(smollm2, gemma3):
    for lm in (smollm2, gemma3):
        for text in TEXTS:
            if "<" not in text and "▁" not in text:  # special tokens are left out; Gemma reads "▁" as a space
                assert lm.tokenizer.decode(lm.tokenizer.encode(text)) == text, (lm.config.name, text)


@pytest.mark.weights
def test_single_tokens_for_display(smollm2, gemma3):
    for lm in (smollm2, gemma3):
        tokenizer = lm.tokenizer
        text = "The cat\n  sat naïvely"
        assert "".join(tokenizer.token(i) for i in tokenizer.encode(text, bos=False)) == text
        assert tokenizer.token(tokenizer.encode(" cat", bos=False)[0]) == " cat"
        assert tokenizer.token(10**6) == "<no token 1000000>"
    assert gemma3.tokenizer.token(2) == "<bos>"
    assert smollm2.tokenizer.token(2) == "<|im_end|>"
    pieces = [smollm2.tokenizer.token(i) for i in smollm2.tokenizer.encode("🙂")]
    assert len(pieces) > 1 and all("\\x" in piece for piece in pieces)  # bytes that are no text by themselves


def test_decode_takes_tensors(tiny):
    assert tiny.tokenizer.decode(torch.tensor([104, 105])) == "hi"


def test_byte_tokenizer():
    tokenizer = ByteTokenizer()
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == list(text.encode()) and tokenizer.decode(ids) == text
    assert tokenizer.decode([104, 257, 105]) == "hi"
    assert tokenizer.decode([256, 104, 257], special=True) == "<bos>h<eos>"
    assert tokenizer.decode([0xE7, 0x8C]) == "�"
    assert [tokenizer.token(i) for i in (65, 10, 0xE7, 258)] == ["A", "\n", "\\xe7", "<pad>"]
    with pytest.raises(ModelError, match="no chat format"):
        tokenizer.chat([])
