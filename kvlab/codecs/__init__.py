"""Codecs: how an entry is written. One idea a file."""

from kvlab.codecs.base import Choice, Codec, Packed
from kvlab.codecs.byte_planes import BytePlanes
from kvlab.codecs.chain import Chain
from kvlab.codecs.csr import CSR
from kvlab.codecs.dictionary import Atoms, Lexico
from kvlab.codecs.error_bounded import ErrorBounded
from kvlab.codecs.float16 import BFloat16, Float16
from kvlab.codecs.fp8 import Fp8
from kvlab.codecs.hadamard import Hadamard
from kvlab.codecs.huffman import Huffman
from kvlab.codecs.int8 import Int8
from kvlab.codecs.kivi import KIVI
from kvlab.codecs.lloyd_max import TurboQuant
from kvlab.codecs.low_rank import LowRank, Subspace
from kvlab.codecs.own_basis import OwnBasis
from kvlab.codecs.per_layer import PerLayer
from kvlab.codecs.quantize import Quantize
from kvlab.codecs.rans import Rans
from kvlab.codecs.sparse import Mustafar

__all__ = [
    "CSR",
    "KIVI",
    "Atoms",
    "BFloat16",
    "BytePlanes",
    "Chain",
    "Choice",
    "Codec",
    "ErrorBounded",
    "Float16",
    "Fp8",
    "Hadamard",
    "Huffman",
    "Int8",
    "Lexico",
    "LowRank",
    "Mustafar",
    "OwnBasis",
    "Packed",
    "PerLayer",
    "Quantize",
    "Rans",
    "Subspace",
    "TurboQuant",
]
