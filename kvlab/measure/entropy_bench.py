"""`kvlab bench entropy`: what Huffman and a range coder make of real keys and values, every byte counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.codecs import BytePlanes, Codec, ErrorBounded, Huffman, Quantize, Rans
from kvlab.codecs.base import Packed
from kvlab.codecs.calibrate import entries
from kvlab.codecs.entropy import EntropyCoder, entropy, histogram
from kvlab.codecs.packing import unpack
from kvlab.codecs.ragged import Ragged
from kvlab.measure.calibration import calibrated
from kvlab.measure.quality_texts import windows
from kvlab.measure.report import Report
from kvlab.measure.tables import table

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

SINK, STREAM = 4, 128  # tokens that are left out, tokens of a stream
CODERS: dict[str, type[EntropyCoder]] = {"huffman": Huffman, "rans": Rans}


@dataclass(frozen=True)
class Stage:
    """Codes that are to be shortened: which codec makes them, in symbols of how many bits."""

    name: str
    codec: Callable[[str, int], Codec]  # of "keys" or "values", and head_dim
    planes: int = 1

    def bits(self, codec: Codec) -> int:
        return getattr(codec, "bits", 8)


def _bounded(bound: float) -> Callable[[str, int], Codec]:
    return lambda stream, dim: ErrorBounded(bound, "channel" if stream == "keys" else "token", 64)


def _kivi(bits: int) -> Callable[[str, int], Codec]:
    def of(stream: str, dim: int) -> Codec:
        return Quantize(bits, "channel", 32) if stream == "keys" else Quantize(bits, "token", min(32, dim))

    return of


STAGES = [
    Stage("min/max int4, by token", lambda stream, dim: Quantize(4, "token", min(32, dim))),
    Stage("min/max int4, KIVI's axes", _kivi(4)),
    Stage("min/max int2, KIVI's axes", _kivi(2)),
    Stage("min/max int8, by token", lambda stream, dim: Quantize(8, "token", min(32, dim))),
    Stage("error-bounded 10 %", _bounded(0.1)),
    Stage("error-bounded 5 %", _bounded(0.05)),
    Stage("error-bounded 2 %", _bounded(0.02)),
    Stage("fp16, bytes as they come", lambda stream, dim: BytePlanes()),
    Stage("fp16, high and low bytes apart", lambda stream, dim: BytePlanes(), planes=2),
]


def symbols_of(code: Tensor, bits: int, planes: int, per_stream: int) -> list[Tensor]:
    """The symbols of each plane as they are coded, uint8 `[streams, n]`."""
    split = (per_stream, code.shape[2] // per_stream)
    found = []
    for plane in code.chunk(planes, dim=-1):
        x = unpack(plane, bits).unflatten(2, (split[1], split[0]))
        found.append(x.flatten(3).flatten(0, 2))
    return found


def record_entropy(lm: Decoder, tokens: int, layers: int, report: Report, name: str) -> str:
    """One row a stage, stream, coder and kind of tables, over every `layers`-th layer of a held-out text."""
    ids = windows(lm, 3, tokens + SINK)[1].tolist()
    pairs = entries(lm, ids)
    other = calibrated(lm)
    chosen = range(0, len(pairs), layers)
    for stage in STAGES:
        for s, stream in enumerate(("keys", "values")):
            codec = stage.codec(stream, lm.config.head_dim)
            held = [pairs[i][s][None, :, SINK:] for i in chosen]
            learned = [other[i][s][None, :, SINK : SINK + tokens // 2] for i in chosen]
            for row in _rows(stage, codec, held, learned):
                report.add(model=name, stage=stage.name, stream=stream, tokens=tokens, **row)
    return entropy_table(report)


def _rows(stage: Stage, codec: Codec, held: list[Tensor], learned: list[Tensor]) -> list[dict[str, Any]]:
    bits, per_stream = stage.bits(codec), max(2, STREAM // codec.block)
    packed = [codec.encode(x) for x in held]
    codes = [p[codec.payload or ""] for p in packed]
    planes = [p for c in codes for p in symbols_of(c, bits, stage.planes, per_stream)]
    n, numbers = sum(p.numel() for p in planes), sum(x.numel() for x in held)
    bound = sum(entropy(histogram(p.numpy(), 2**bits)) * p.numel() for p in planes) / n
    rest = sum(part.nbytes for p in packed for k, part in p.items() if k != codec.payload)
    about = {
        "symbol_bits": bits,
        "symbols": n,
        "symbols_a_number": n / numbers,
        "entropy_bits": bound,
        "scale_bits_a_number": 8 * rest / numbers,
        "plain_decode_seconds": _seconds(lambda: [codec.decode(p, torch.float32) for p in packed])[0],
    }
    rows = []
    for coder_name, kind in CODERS.items():
        for counts in (None, _counts(codec, learned, bits)):
            coder = kind(bits, per_stream, stage.planes, counts)
            tables = "own" if counts is None else "shared"
            rows.append({"coder": coder_name, "tables": tables, **about, **_coded(coder, codes, n)})
    return rows


def _coded(coder: EntropyCoder, codes: list[Tensor], n: int) -> dict[str, Any]:
    """Sizes and times of one coder, whose streams must give back every bit."""
    encode, out = _seconds(lambda: [coder.encode(c) for c in codes])
    decode, back = _seconds(lambda: [coder.decode(o) for o in out])
    if not all(torch.equal(a, b) for a, b in zip(back, codes, strict=True)):
        raise AssertionError(f"{type(coder).__name__} did not give back what it was given")
    sizes = _parts(out)
    return {
        **{f"{part}_bits": 8 * size / n for part, size in sizes.items()},
        "total_bits": 8 * sum(sizes.values()) / n,
        "shared_bytes": sum(t.nbytes for t in coder.shared_tensors()),
        "encode_seconds": encode,
        "decode_seconds": decode,
        "exact": True,
    }


def _counts(codec: Codec, learned: list[Tensor], bits: int) -> Tensor:
    """How often each symbol occurs in other text."""
    total = torch.zeros(2**bits, dtype=torch.int64)
    for x in learned:
        code = codec.encode(x[:, :, : x.shape[2] // codec.block * codec.block])[codec.payload or ""]
        total += torch.bincount(unpack(code, bits).flatten().long(), minlength=2**bits)
    return total


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, which other programs hardly touch, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _parts(packed: list[Packed]) -> dict[str, int]:
    """Bytes of the streams, of where they end, and of their tables."""
    found = {"stream": 0, "ends": 0, "table": 0}
    for one in packed:
        for name, part in one.items():
            if isinstance(part, Ragged):
                found["stream"] += part.data.numel()
                found["ends"] += part.ends.nbytes
            elif name.startswith("table"):
                found["table"] += part.nbytes
    return found


def entropy_table(report: Report) -> str:
    """Bits a symbol, by stage: at best, in the stream, and with all that reading it back needs."""
    rows = [
        {
            "codes": row["stage"],
            "stream": row["stream"],
            "coder": row["coder"],
            "tables": row["tables"],
            "plain": row["symbol_bits"],
            "entropy": row["entropy_bits"],
            "stream bits": row["stream_bits"],
            "with tables": row["total_bits"],
            "decode ×": row["decode_seconds"] / max(row["plain_decode_seconds"], 1e-9),
        }
        for row in report.rows
    ]
    return table(rows)
