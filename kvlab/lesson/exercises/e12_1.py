"""12.1: quantize a group of numbers, asymmetric."""

import torch

from kvlab.lesson.exercise import Draw, Exercise, Unfit

EXERCISE = Exercise("12.1", "Few levels between the smallest and the largest", function="quantize", stub="""
def quantize(x, bits):
    # x: [groups, numbers], every group with its own scale
    # return codes [groups, numbers], torch.uint8, 0 … 2**bits - 1,
    #   scale [groups, 1] and minimum [groups, 1], so that
    #   minimum + scale * codes is as near to x as it can be
    ...
""", hint="`amin(-1, keepdim=True)`; the smallest number gets code 0, the largest the last one.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    x = 3 * draw.normal(3, 8) + 2 * draw.normal(3, 1)
    x[1] = x[1].abs() + 1  # a group without zero in it
    x[2] = float(x[2, 0])  # all equal: nothing to divide by
    return x, draw.one_of([2, 3, 4, 8])


@EXERCISE.run
def run(candidate, x, bits):
    found = candidate(x, bits)
    if found is None:
        return None
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise Unfit("Return three tensors: codes, scale and minimum.")
    codes, scale, minimum = found
    spread = x.amax(-1, True) > x.amin(-1, True)  # where all are equal, any scale will do
    fits = scale.shape == minimum.shape == spread.shape and codes.shape == x.shape
    same = [codes * spread, scale * spread, minimum + scale * codes] if fits else [codes, scale, minimum]
    return [same[0].float(), same[1], minimum, codes.dtype == torch.uint8, same[2]]


def quantizer(codes=torch.round, floor=None, top=None, levels=lambda bits: 2**bits - 1, over=(-1,),
              dtype=torch.uint8, back=lambda scale: scale, order=(0, 1, 2)):  # fmt: skip
    """Right, but for what is given otherwise."""

    def quantize(x, bits):
        low = (floor or (lambda x: x.amin(over, keepdim=True)))(x)
        high = (top or (lambda x: x.amax(over, keepdim=True)))(x)
        scale = (high - low) / levels(bits)
        code = codes((x - low) / scale.clamp(min=1e-12)).clamp(0, 2**bits - 1).to(dtype)
        found = code, back(scale).expand(len(x), 1), low.expand(len(x), 1)
        return tuple(found[i] for i in order)

    return quantize


@EXERCISE.alternative
def alternative(x, bits):
    rows = []
    for row in x:
        low, scale = row.min(), (row.max() - row.min()) / (2**bits - 1)
        codes = [0 if scale == 0 else int((n - low) / scale + 0.5) for n in row]
        rows.append((torch.tensor(codes, dtype=torch.uint8), scale[None], low[None]))
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


def wrong(message, **how):
    EXERCISE.mistake(message)(quantizer(**how))


wrong("You divide by 3 whatever `bits` is: that is right for 2 bits only.", levels=lambda b: 3)
wrong("You divide by 2**bits: between 2**bits levels there are 2**bits - 1 steps.", levels=lambda b: 2**b)
wrong("You cut codes off instead of rounding: errors up to a whole step, all to one side.", codes=torch.floor)
wrong("One scale for all groups: take minimum and maximum along the last axis only.", over=(-2, -1))
wrong("Your levels lie around zero: symmetric. A group that is all positive then wastes half of them.",
      floor=lambda x: -x.abs().amax(-1, True), top=lambda x: x.abs().amax(-1, True))  # fmt: skip
wrong("The levels begin at 0, not at the group's minimum: what is below it is lost.",
      floor=lambda x: torch.zeros(len(x), 1))  # fmt: skip
wrong(
    "The codes are no bytes: floats and longs take 4 or 8 bytes each. Return torch.uint8.", dtype=torch.int64
)
wrong("Scale and minimum have changed places: codes, scale, minimum.", order=(0, 2, 1))
wrong("You return 1/scale: decoding multiplies by the scale.", back=lambda scale: 1 / scale.clamp(min=1e-12))
