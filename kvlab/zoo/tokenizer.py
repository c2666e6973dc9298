"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kvlab.model.config import Config
from kvlab.zoo.errors import ModelError, need

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(Protocol):
    """What every tokenizer here can do. `eos_ids` end a text; `pad_id` fills a batch."""

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Ids of `text`; `bos=False` leaves out the token that some models begin every text with."""

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Text of `ids`; special tokens such as <bos> are left out unless `special`."""

    def token(self, index: int) -> str:
        r"""One token for display: " cat", "\n", "<bos>"; bytes that are no text as "\xe6"."""

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The text that asks a chat model for its next message."""


class ByteTokenizer:
    """One token for each byte of UTF-8, then <bos> 256, <eos> 257, <pad> 258. Needs no package."""

    bos_id: int | None = 256
    eos_ids: tuple[int, ...] = (257,)
    pad_id: int | None = 258
    _special = {256: "<bos>", 257: "<eos>", 258: "<pad>"}

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """The bytes of `text`. Like SmolLM2's, this tokenizer adds no <bos>: `bos` changes nothing."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become "�"."""
        data = b"".join(
            bytes([index]) if index < 256 else self._special[index].encode() if special else b""
            for index in map(int, ids)
        )
        return data.decode("utf-8", errors="replace")

    def token(self, index: int) -> str:
        """One byte for display."""
        return self._special.get(index) or bytes([index]).decode("utf-8", errors="backslashreplace")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Refused: this model knows no chat format."""
        raise _no_chat()


class PieceTokenizer:
    """A tokenizer of the `tokenizers` library, with the special ids of a `Config`.

    Args:
        backend: the library's tokenizer.
        config: gives bos, eos and pad.
        chat_system: default system message of a ChatML model; None: the model knows no chat format.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Config, chat_system: str | None = None) -> None:
        self.backend = backend
        self.bos_id, self.pad_id = config.bos_token_id, config.pad_token_id
        self.eos_ids = config.eos_token_ids
        self.chat_system = chat_system
        self._bytes = _byte_alphabet() if _is_byte_level(backend) else None

    @classmethod
    def from_file(cls, path: Path, config: Config, chat_system: str | None = None) -> PieceTokenizer:
        """Read a `tokenizer.json`."""
        backend = need("tokenizers").Tokenizer.from_file(str(path))
        return cls(backend, config, chat_system)

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Ids of `text`, as transformers' tokenizer gives them; `bos=False`: nothing is added in front.

        The names of special tokens in the text ("<|im_end|>") become those tokens.
        """
        return self.backend.encode(text, add_special_tokens=bos).ids

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Text of `ids`; special tokens such as <bos> are left out unless `special`."""
        return self.backend.decode([int(index) for index in ids], skip_special_tokens=not special)

    def token(self, index: int) -> str:
        r"""One token for display: " cat", "\n", "<bos>"; bytes that are no text as "\xe6"."""
        piece = self.backend.id_to_token(int(index))
        if piece is None:
            return f"<no token {int(index)}>"
        if self._bytes is None:
            return piece.replace("▁", " ")
        if any(letter not in self._bytes for letter in piece):  # a special token, kept as it is written
            return piece
        return bytes(self._bytes[letter] for letter in piece).decode("utf-8", errors="backslashreplace")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """ChatML text of `messages` ({"role": …, "content": …}) that asks the assistant to go on.

        Raises:
            ModelError: the model knows no chat format (a base model, or one that kvlab has no format for).
        """
        if self.chat_system is None:
            raise _no_chat()
        turns = list(messages)
        if not turns or turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.chat_system})
        lines = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns]
        return "".join(lines) + "<|im_start|>assistant\n"


def _no_chat() -> ModelError:
    return ModelError("This model has no chat format that kvlab knows; give it plain text to continue.")


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """Whether pieces are bytes in disguise (GPT-2's alphabet)."""
    return isinstance(backend.decoder, need("tokenizers").decoders.ByteLevel)


def _byte_alphabet() -> dict[str, int]:
    """The byte behind each letter of GPT-2's alphabet: printable bytes are themselves, the rest moved up."""
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    letters = {chr(byte): byte for byte in printable}
    moved = [byte for byte in range(256) if byte not in letters.values()]
    return letters | {chr(256 + offset): byte for offset, byte in enumerate(moved)}
