"""The patterns of the papers. Each says yes or no to a pair of positions; causality comes on top."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kvlab.selection.pattern import Pattern, at_least


class LocalWindow(Pattern):
    """The newest `width` tokens, the query's own included (as in Mistral 7B; Jiang et al., 2023).

    Raises:
        ValueError: if `width` is less than 1.
    """

    def __init__(self, width: int = 256):
        at_least("LocalWindow", 1, width=width)
        self.width = width

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        return keys > queries - self.width


class AShape(Pattern):
    """The first `sinks` tokens and the newest `recent`: the mask of StreamingLLM (Xiao et al., 2023).

    On a map it looks like a Λ. Positions stay as they are; that paper counts them anew inside its cache.

    Raises:
        ValueError: if `sinks` or `recent` is less than 1.
    """

    def __init__(self, sinks: int = 4, recent: int = 252):
        at_least("AShape", 1, sinks=sinks, recent=recent)
        self.sinks, self.recent = sinks, recent

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (keys < self.sinks) | (keys > queries - self.recent)


class Dilated(Pattern):
    """Every `dilation`-th of the newest `width` · `dilation` tokens (Longformer; Beltagy et al., 2020).

    Raises:
        ValueError: if `width` or `dilation` is less than 1.
    """

    def __init__(self, width: int = 256, dilation: int = 2):
        at_least("Dilated", 1, width=width, dilation=dilation)
        self.width, self.dilation = width, dilation

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        back = queries - keys
        return (back < self.width * self.dilation) & (back % self.dilation == 0)

    def order(self, positions: Tensor) -> Tensor:
        return positions % self.dilation


class Strided(Pattern):
    """The newest `stride` tokens and every `stride`-th before (Sparse Transformer; Child et al., 2019).

    The paper gives the two halves to different heads, or merges them as here. A prompt is computed by
    residue: queries `stride` apart read the same far keys.

    Raises:
        ValueError: if `stride` is less than 1.
    """

    block = 16

    def __init__(self, stride: int = 32):
        at_least("Strided", 1, stride=stride)
        self.stride = stride

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        back = queries - keys
        return (back < self.stride) | (back % self.stride == 0)

    def order(self, positions: Tensor) -> Tensor:
        return positions % self.stride


class FixedColumns(Pattern):
    """The query's own block, and the last `columns` tokens of every block (Child et al., 2019: "fixed").

    The columns are to sum their blocks up, which a model learns only if it is trained so.

    Raises:
        ValueError: if `size` or `columns` is less than 1, or there are more columns than a block has.
    """

    def __init__(self, size: int = 64, columns: int = 4):
        at_least("FixedColumns", 1, size=size, columns=columns)
        if columns > size:
            raise ValueError(f"FixedColumns needs columns <= size: a block of {size} has no {columns}.")
        self.size, self.columns = size, columns

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        own = keys // self.size == queries // self.size
        return own | (keys % self.size >= self.size - self.columns)


class Longformer(Pattern):
    """A window, and chosen positions that all see and that see all (Beltagy et al., 2020).

    In a causal model a global token at the front is a sink: all see it, and it has nothing before it.

    Raises:
        ValueError: if `width` is less than 1, or a position is negative, or none is given.
    """

    def __init__(self, width: int = 252, positions: Sequence[int] = (0, 1, 2, 3)):
        at_least("Longformer", 1, width=width)
        if not positions or min(positions) < 0:
            raise ValueError(
                f"Longformer needs positions from 0 on, not {list(positions)}; without any it is LocalWindow."
            )
        self.width, self.positions = width, tuple(positions)

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        read = keys > queries - self.width
        for chosen in self.positions:
            read = read | (keys == chosen) | (queries == chosen)
        return read


class BigBird(Pattern):
    """Blocks: the newest `window`, the first `globals_`, and `random` others (Zaheer et al., 2020).

    All in blocks of `size` tokens. Which blocks are random is a hash of the query's block and `seed`: the
    same in every layer, and known before the text.

    Raises:
        ValueError: if `size` or `window` is less than 1, or `globals_` or `random` negative.
    """

    def __init__(self, size: int = 32, window: int = 5, globals_: int = 1, random: int = 2, seed: int = 0):
        at_least("BigBird", 1, size=size, window=window)
        at_least("BigBird", 0, globals_=globals_, random=random)
        self.size, self.window, self.globals_, self.random = size, window, globals_, random
        self.seed = seed
        self.block = min(64, size)

    def allows(self, queries: Tensor, keys: Tensor) -> Tensor:
        asked, held = queries.long() // self.size, keys.long() // self.size
        read = (held > asked - self.window) | (held < self.globals_)
        for i in range(self.random):
            read = read | (held == _hash(asked, 2 * self.seed + 1, i) % (asked + 1).clamp(min=1))
        return read


def _hash(x: Tensor, seed: int, i: int) -> Tensor:
    """Numbers from 0 to 2^31 - 1 that look random, int64 (the mixing steps of MurmurHash3; Appleby, 2011)."""
    x = (x * 2654435761 + seed * 40503 + i * 2246822519) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 2246822507) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 3266489909) & 0xFFFFFFFF
    return (x ^ (x >> 16)) & 0x7FFFFFFF
