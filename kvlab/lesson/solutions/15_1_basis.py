import torch


class Basis:
    def __init__(self, other, rank):
        self.mean = other.mean(0)
        # The rows of Vh are directions among the channels, the strongest first.
        _, _, vh = torch.linalg.svd(other - self.mean, full_matrices=False)
        self.directions = vh[:rank].T

    def encode(self, x):
        return (x - self.mean) @ self.directions

    def decode(self, code):
        return code @ self.directions.T + self.mean
