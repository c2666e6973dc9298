import torch


class Basis:
    def __init__(self, other, rank):
        self.mean = other.mean(0)
        centred = other - self.mean
        # rows of Vh: directions among the channels, the strongest first
        _, _, vh = torch.linalg.svd(centred, full_matrices=False)
        self.directions = vh[:rank].T

    def encode(self, x):
        return (x - self.mean) @ self.directions

    def decode(self, code):
        return code @ self.directions.T + self.mean
