"""Fewer bits: along which axis, with or without rotation or a codebook. Groups of 32; the newest 32 exact."""

from __future__ import annotations

import kvlab
from kvlab.codecs import KIVI, Codec, Quantize
from kvlab.codecs.quantize import Axis
from kvlab.measure.methods.registry import method


def _codec(name: str, about: str, codec: Codec | tuple[Codec, Codec], family: str = "quantization") -> None:
    method(name, family, about, lambda lm, task: {"codec": codec})


def _uniform(bits: int, axis: Axis, sink: int = 0, symmetric: bool = False) -> Quantize:
    return Quantize(bits, axis, group_size=32, residual=32, sink=sink, symmetric=symmetric)


_codec("fp16", "half precision", kvlab.Float16())
_codec("bf16", "bfloat16", kvlab.BFloat16())
_codec("fp8", "e4m3, one scale a token", kvlab.Fp8())
_codec("int8", "8 bits, symmetric, one scale a token", kvlab.Int8())
_codec("tensor-4", "4 bits, one scale for all channels of 32 tokens", _uniform(4, "tensor"))
_codec("swapped-2", "2 bits, KIVI's axes swapped: keys by token, values by channel",
       (_uniform(2, "token"), _uniform(2, "channel")))  # fmt: skip
for _b in (4, 3, 2):
    _codec(f"token-{_b}", f"{_b} bits, keys and values by token", _uniform(_b, "token"))
    _codec(f"token-{_b}-sink", f"{_b} bits by token, 4 sinks exact", _uniform(_b, "token", sink=4))
    _codec(f"token-{_b}-symmetric", f"{_b} bits by token, levels around zero",
           _uniform(_b, "token", symmetric=True))  # fmt: skip
    _codec(f"channel-{_b}", f"{_b} bits, keys and values by channel", _uniform(_b, "channel"))
    _codec(f"channel-{_b}-sink", f"{_b} bits by channel, 4 sinks exact", _uniform(_b, "channel", sink=4))
    _codec(f"kivi-{_b}", f"{_b} bits, keys by channel, values by token", KIVI(_b, 32, residual=32))
    _codec(f"kivi-{_b}-sink", f"{_b} bits, KIVI, 4 sinks exact", KIVI(_b, 32, residual=32, sink=4))
_codec("kivi-2-residual-0", "2 bits, KIVI, no exact window but the block that fills", KIVI(2, 32, residual=0))
_codec("kivi-2-residual-128", "2 bits, KIVI, the newest 128 exact", KIVI(2, 32, residual=128))

# --- rotation and codebooks, keys before rotary: 4 sinks and the newest 32 tokens exact ---
for _b in (4, 3, 2):
    for _name, _about, _made in (
        (f"hadamard-{_b}", f"{_b} bits by token after a Hadamard rotation",
         kvlab.Hadamard(Quantize(_b, "token", 32, residual=32, sink=4))),
        (f"hadamard-head-{_b}", f"{_b} bits after a Hadamard rotation, one scale a head vector",
         kvlab.Hadamard(Quantize(_b, "token", None, residual=32, sink=4))),
        (f"turbo-{_b}", f"{_b} bits in a Lloyd-Max codebook after rotation, lengths apart",
         kvlab.TurboQuant(_b, residual=32, sink=4)),
        (f"plain-kivi-{_b}", f"{_b} bits, KIVI's axes, keys before rotary",
         (Quantize(_b, "channel", 32, residual=32, sink=4, plain_keys=True), _uniform(_b, "token", sink=4))),
    ):  # fmt: skip
        _codec(_name, _about, _made, "rotation")
