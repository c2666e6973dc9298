"""04.2: positions and mask of new tokens behind a cache, in a batch padded on the left."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("04.2", "Places and mask of a padded batch", function="place", stub="""
def place(real, new):
    # real: bool [batch, slots], cached and new; False is padding
    # new: the last `new` slots hold the tokens that go in now
    # return positions [batch, new] and mask [batch, new, slots]
    ...
""", hint="`real.cumsum(1)` counts real tokens; rows of padding are not compared.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    slots, new = draw.integer(6, 9), draw.integer(2, 4)
    padding = torch.tensor([draw.integer(1, slots - new), 0, draw.integer(1, slots - 1)])
    return torch.arange(slots) >= padding[:, None], new


@EXERCISE.run
def run(candidate, real, new):
    found = candidate(real, new)
    if found is None:
        return None
    (positions, mask), asks = found, real[:, -new:]  # padding asks nothing that anyone reads
    if positions.shape == asks.shape:
        positions = positions.where(asks, 0)
    return {"positions": positions, "mask": mask & asks[:, :, None]}


def places(real, new):
    return (real.cumsum(1) - 1)[:, -new:]


def masks(real, new, seen=None, diagonal=lambda slots, new: slots - new):
    triangle = torch.ones(new, real.shape[1], dtype=torch.bool).tril(diagonal(real.shape[1], new))
    return triangle & (real if seen is None else seen(real, new))[:, None]


@EXERCISE.alternative
def alternative(real, new):
    slots = torch.arange(real.shape[1])
    places = real[:, :-new].sum(1, keepdim=True) + real[:, -new:].cumsum(1) - 1
    return places, (slots <= slots[-new:, None]) & real[:, None]


@EXERCISE.mistake("Positions count columns, padding too: count real tokens, `real.cumsum(1) - 1`.")
def by_column(real, new):
    return torch.arange(real.shape[1])[-new:].expand(len(real), -1), masks(real, new)


@EXERCISE.mistake("Positions begin at 1: the first real token of a row has position 0.")
def from_one(real, new):
    return places(real, new) + 1, masks(real, new)


@EXERCISE.mistake("Positions start at 0 with the new tokens: they go on from the cached ones.")
def restart(real, new):
    return real[:, -new:].cumsum(1) - 1, masks(real, new)


def new_only(real, new):
    return real & (torch.arange(real.shape[1]) >= real.shape[1] - new)


for message, how in (
    (
        "Queries look at padding: take `& real[:, None]` into the mask.",
        {"seen": lambda r, n: torch.ones_like(r)},
    ),
    ("The triangle is aligned top-left: use `tril(slots - new)`.", {"diagonal": lambda s, n: 0}),
    ("The cached tokens are hidden: the mask covers past and new.", {"seen": new_only}),
    ("New tokens see later ones: a chunk needs the triangle, too.", {"diagonal": lambda s, n: s}),
    ("A query misses its own token: the diagonal is seen, too.", {"diagonal": lambda s, n: s - n - 1}),
):
    EXERCISE.mistake(message)(lambda real, new, how=how: (places(real, new), masks(real, new, **how)))
