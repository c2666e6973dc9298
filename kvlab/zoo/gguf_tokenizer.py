"""Build a `tokenizers` tokenizer from the vocabulary that a GGUF file carries.

The ids are those of transformers' own conversion (`AutoTokenizer.from_pretrained(…, gguf_file=…)`).
Like that conversion, SmolLM2's splits words by GPT-2's rule alone; the checkpoint's original
tokenizer also splits off every digit first, which changes the ids of spaces before a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvlab.zoo.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4  # ggml's token types: <bos> and the like; whole pieces of text


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `tokenizer.ggml.*` describes.

    Raises:
        ModelError: a kind of vocabulary that none of the catalogued models has.
    """
    kind = metadata["tokenizer.ggml.model"]
    if kind == "gpt2":
        tokenizer = _byte_level(metadata)
    elif kind == "llama" and metadata["general.architecture"] == "gemma3":
        tokenizer = _gemma(metadata)
    else:
        raise ModelError(f"kvlab cannot build a tokenizer from a GGUF vocabulary of kind {kind!r}.")
    _add_whole_tokens(tokenizer, metadata)
    if metadata.get("tokenizer.ggml.add_bos_token"):
        _add_bos(tokenizer, metadata["tokenizer.ggml.bos_token_id"])
    return tokenizer


def _byte_level(metadata: dict[str, Any]) -> Tokenizer:
    """GPT-2's kind: BPE over bytes, merges given in the file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gemma(metadata: dict[str, Any]) -> Tokenizer:
    """Gemma's kind: BPE over characters, "▁" for a space, bytes for what the vocabulary lacks."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = [_respell(token) for token in metadata["tokenizer.ggml.tokens"]]
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = tokens[metadata["tokenizer.ggml.unknown_token_id"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab, merges=list(_merges(vocab)), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _respell(token: str) -> str:
    """Runs of spaces stand in the file as spaces; the normalizer makes them "▁"."""
    return "▁" * len(token) if " " in token and not token.strip() else token


def _merges(vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The merges that a vocabulary implies, best first.

    The file lists none. A token can come from every split into two known tokens; earlier tokens
    merge first, and of one token's splits those with the longest left part.
    """
    for token in vocab:
        for cut in range(len(token) - 1, 0, -1):
            if token[:cut] in vocab and token[cut:] in vocab:
                yield token[:cut], token[cut:]


def _add_whole_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Tokens that are found in the text before anything else is cut."""
    from tokenizers import AddedToken

    pairs = list(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token, kind in pairs if kind == _CONTROL]
    )
    known = tokenizer.get_vocab()
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=False)
            for token, kind in pairs
            if kind == _USER_DEFINED and token in known
        ]
    )


def _add_bos(tokenizer: Tokenizer, bos: int) -> None:
    """Put the token that begins a text in front of every encoded one."""
    from tokenizers import processors

    token = tokenizer.id_to_token(bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, bos)]
    )
