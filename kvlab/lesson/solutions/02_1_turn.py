import torch


def turn(x, positions, theta):
    # x: [tokens, head_dim], positions: [tokens] -> [tokens, head_dim]
    d = x.shape[-1]
    frequencies = theta ** (-2 * torch.arange(d // 2) / d)  # [d / 2]
    angle = positions[:, None] * frequencies  # [tokens, d / 2]
    a, b = x[:, : d // 2], x[:, d // 2 :]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
