"""14.1: store only what stays, and put it back."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("14.1", "A bitmap and the numbers that stay", function="Pruned", stub="""
class Pruned:
    def __init__(self, x, kept):
        # x: [tokens, dim]. Of each token the `kept` largest |x| stay.
        # self.values: [tokens, kept], in the order of their channels
        # self.bitmap: uint8 [tokens, dim / 8]; channel c is bit c % 8
        #   (worth 2 ** (c % 8)) of byte c // 8
        ...

    def unpack(self):
        # from self.values and self.bitmap alone -> [tokens, dim]
        ...
""", hint="Which channels does your bitmap name?")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    tokens, dim = draw.integer(2, 5), 8 * draw.integer(2, 4)
    return draw.normal(tokens, dim), draw.integer(3, dim - 3)


@EXERCISE.run
def run(candidate, x, kept):
    one = candidate(x, kept)
    if not hasattr(one, "values"):
        return None
    return [one.bitmap.element_size(), one.values, one.bitmap, one.unpack()]


def variant(score=torch.abs, order=True, weight=lambda c: c % 8, byte=8, back=None, dtype=torch.uint8):
    class Pruned:
        def __init__(self, x, kept):
            where = score(x).topk(kept, dim=-1).indices
            where = where.sort(dim=-1).values if order else where
            self.values, dim = x.gather(-1, where), x.shape[-1]
            self.bitmap = torch.zeros(len(x), dim // byte, dtype=dtype)
            for t in range(len(x)):
                for c in where[t].tolist():
                    self.bitmap[t, c // byte] += 2 ** weight(c) if byte == 8 else 1

        def unpack(self):
            x = torch.zeros(len(self.values), self.bitmap.shape[1] * byte)
            for t in range(len(x)):
                for i, c in enumerate(c for c in range(x.shape[1]) if self._bit(t, c)):
                    x[t, c] = self.values[back(t) if back else t, i]
            return x

        def _bit(self, t, c):
            return int(self.bitmap[t, c // byte]) >> (weight(c) if byte == 8 else 0) & 1

    return Pruned


EXERCISE.alternative(variant())


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("The largest numbers stay, not the largest |x|: large negative ones are lost.", score=lambda x: x)
wrong("The smallest |x| stay: turn the order round.", score=lambda x: -x.abs())
wrong("Your values are ordered by size. The bitmap can only give them back by channel.", order=False)
wrong(
    "Your bits run the other way in each byte: channel c is worth 2 ** (c % 8).", weight=lambda c: 7 - c % 8
)
wrong("A byte for each channel is no bitmap: eight channels share one.", byte=1)
wrong("Your bitmap is not uint8: in int64 its 8 bits take 8 bytes.", dtype=torch.int64)
wrong("You unpack every token from the values of the first one.", back=lambda t: 0)
