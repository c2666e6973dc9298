import torch


class Pruned:
    def __init__(self, x, kept):
        # By channel, so that the bitmap alone says where each value belongs.
        where = x.abs().topk(kept, dim=-1).indices.sort(dim=-1).values
        self.values = x.gather(-1, where)
        mask = torch.zeros(x.shape, dtype=torch.uint8).scatter(-1, where, 1)
        worth = 2 ** torch.arange(8)  # [1, 2, 4, …, 128]
        self.bitmap = (mask.unflatten(-1, (-1, 8)) * worth).sum(-1).to(torch.uint8)

    def unpack(self):
        bits = self.bitmap.unsqueeze(-1) >> torch.arange(8) & 1
        mask = bits.flatten(-2).bool()  # [tokens, dim]
        x = torch.zeros(mask.shape)
        x[mask] = self.values.flatten()
        return x
