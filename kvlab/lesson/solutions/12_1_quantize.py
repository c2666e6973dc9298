import torch


def quantize(x, bits):
    minimum = x.amin(-1, keepdim=True)
    steps = 2**bits - 1  # between 2**bits levels
    scale = (x.amax(-1, keepdim=True) - minimum) / steps
    safe = scale.clamp(min=1e-12)  # a group of equal numbers has no spread
    codes = ((x - minimum) / safe).round().clamp(0, steps)
    return codes.to(torch.uint8), scale, minimum
