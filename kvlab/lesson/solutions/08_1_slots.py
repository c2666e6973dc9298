import torch


class Slots:
    def __init__(self, heads, capacity, head_dim):
        self.data = torch.zeros(heads, capacity, head_dim)
        self.used = 0

    def append(self, x):
        end = self.used + x.shape[1]
        # Check before anything is written or counted.
        if end > self.data.shape[1]:
            raise ValueError(f"{end} slots needed, {self.data.shape[1]} there")
        self.data[:, self.used : end] = x  # in place: nothing else moves
        self.used = end
