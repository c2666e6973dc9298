import torch


def attend_latents(q, latents, up_k, up_v):
    # q · (U c) = (Uᵀ q) · c: once a query, not once a token
    looked = torch.einsum("hd,hdl->hl", q, up_k)
    weights = (looked @ latents.T / q.shape[-1] ** 0.5).softmax(-1)
    mixed = weights @ latents  # [heads, latent]
    # sum p (V c) = V (sum p c): once a query
    return looked, torch.einsum("hl,hdl->hd", mixed, up_v)
