"""15.1: a few coordinates in a basis that another text gave."""

import torch

from kvlab.lesson.exercise import Draw, Exercise, Unfit

EXERCISE = Exercise("15.1", "A basis from other text", function="Basis", stub="""
class Basis:
    def __init__(self, other, rank):
        # other: [n, dim], vectors of another text; self.mean: [dim]
        # self.directions: [dim, rank], the `rank` strongest ones about
        #   the mean, as columns (torch.linalg.svd gives U, S, Vh)
        ...

    def encode(self, x):
        # x: [tokens, dim] -> [tokens, rank], coordinates about self.mean
        ...

    def decode(self, code):
        ...  # [tokens, rank] -> [tokens, dim]
""", hint="Which plane do your decoded vectors lie in?")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    dim = draw.integer(5, 8)
    shape, middle = draw.normal(dim, dim), 3 * draw.normal(dim)  # directions differ in strength
    return draw.normal(2 * dim, dim) @ shape + middle, draw.normal(5, dim) @ shape - middle, 3


@EXERCISE.run
def run(candidate, other, x, rank):  # the codes' norms: a direction may have either sign
    basis = candidate(other, rank)
    if not hasattr(basis, "directions"):
        raise Unfit("`__init__` sets no `self.directions`, [dim, rank].")
    return [list(basis.directions.shape), basis.decode(code := basis.encode(x)), code.norm(dim=-1)]


def variant(centre=True, pick=slice(None), rows=True, subtract=True, add=True, own=False, single=False):
    class Basis:
        def __init__(self, other, rank):
            self.mean = other.mean() if single else centre * other.mean(0)
            v = torch.linalg.svd(other - self.mean)[2]
            self.directions = (v.mT if rows else v)[:, pick][:, :rank]

        def encode(self, x):
            if own:
                self.__dict__ = Basis(x, self.directions.shape[1]).__dict__
            return (x - self.mean if subtract else x) @ self.directions

        def decode(self, code):
            return code @ self.directions.mT + (self.mean if add else 0)

    return Basis


@EXERCISE.alternative
class Eigen:
    def __init__(self, other, rank):
        self.mean, cov = other.sum(0) / len(other), torch.cov(other.T)
        self.directions = torch.linalg.eigh(cov).eigenvectors.flip(1)[:, :rank]

    def encode(self, x):
        return x @ self.directions - self.mean @ self.directions

    def decode(self, code):
        return self.mean + torch.einsum("tr,dr->td", code, self.directions)


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("You leave the mean in: a direction is spent on it. Take it off before the SVD, keep it.", centre=False)
wrong("Your basis is learned from x itself. That needs a basis for each text, stored with it.", own=True)
wrong("These directions are not the strongest: svd gives those first.", pick=slice(-3, None))
wrong("You do not add the mean again: what comes back lies around zero.", add=False)
wrong("`other.mean()` is one number. The mean of vectors is a vector: `other.mean(0)`.", single=True)
wrong("`encode` does not take the mean off, though the basis was made about it.", subtract=False)
wrong("svd gives Vh, whose rows are the directions: transpose it and take columns of that.", rows=False)
