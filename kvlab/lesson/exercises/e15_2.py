"""15.2: attend to latents, without making a key or a value."""

import torch

from kvlab.lesson.exercise import Draw, Exercise

EXERCISE = Exercise("15.2", "Attend to latents", function="attend_latents", stub="""
def attend_latents(q, latents, up_k, up_v):
    # q: [heads, dim], one query a head; latents: [tokens, latent]
    # up_k, up_v: [heads, dim, latent]. Head h's key of token t would be
    #   up_k[h] @ latents[t], its value up_v[h] @ latents[t]: make neither
    # return two tensors:
    #   [heads, latent], the queries in the space of the latents
    #   [heads, dim], what attention gives (scores over sqrt(dim))
    ...
""", hint="Compare with keys = latents @ up_k[h].T, attended in the usual way.")  # fmt: skip


@EXERCISE.inputs
def inputs(draw: Draw):
    heads, dim, latent = draw.integer(2, 3), draw.integer(3, 5), draw.integer(6, 9)
    if draw.integer(0, 1):
        latent = dim
    tokens = draw.integer(4, 7)
    return (
        2 * draw.normal(heads, dim), draw.normal(tokens, latent),
        draw.normal(heads, dim, latent), draw.normal(heads, dim, latent),
    )  # fmt: skip


def variant(scale="dim", axis=-1, back="v", look="k", softmax=True, which=slice(None)):
    def attend_latents(q, latents, up_k, up_v):
        into, out = {"k": up_k, "v": up_v}[look][which], {"k": up_k, "v": up_v}[back][which]
        looked = torch.einsum("hd,hdl->hl", q, into.expand_as(up_k))
        size = {"dim": q.shape[-1], "latent": latents.shape[-1], "none": 1}[scale]
        scores = looked @ latents.T / size**0.5  # [heads, tokens]
        weights = scores.softmax(axis) if softmax else scores
        return looked, torch.einsum("hl,hdl->hd", weights @ latents, out.expand_as(up_v))

    return attend_latents


@EXERCISE.alternative
def alternative(q, latents, up_k, up_v):
    looked = (q.unsqueeze(1) @ up_k).squeeze(1)
    weights = (looked @ latents.mT * q.shape[-1] ** -0.5).exp()
    mixed = weights @ latents / weights.sum(-1, keepdim=True)
    return looked, (up_v @ mixed.unsqueeze(-1)).squeeze(-1)


def wrong(message, **how):
    EXERCISE.mistake(message)(variant(**how))


wrong("You divide by sqrt(latent): the scores are those of keys, which have dim numbers.", scale="latent")
wrong("You left out the division by sqrt(dim).", scale="none")


@EXERCISE.mistake("What you return is mixed latents: bring them back with up_v, once a head.")
def not_back(q, latents, up_k, up_v):
    looked = torch.einsum("hd,hdl->hl", q, up_k)
    return looked, (looked @ latents.T / q.shape[-1] ** 0.5).softmax(-1) @ latents


@EXERCISE.mistake("What attention gives is right. The queries in the space of the latents come before it.")
def only_attended(q, latents, up_k, up_v):
    return alternative(q, latents, up_k, up_v)[1]


wrong("The weights of each head sum to 1 over the tokens; yours do so over the heads.", axis=0)
wrong("You come back with up_k. What is mixed are values: up_v.", back="k")
wrong("You take the query into the space with up_v: scores are made with keys, up_k.", look="v")
wrong("You left out the softmax.", softmax=False)
wrong("All heads use the first head's matrices: each has its own.", which=slice(0, 1))
