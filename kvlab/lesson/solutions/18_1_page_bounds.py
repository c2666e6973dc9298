import torch


def page_bounds(query, keys, page):
    pages = keys.unflatten(0, (-1, page))  # [pages, page, head_dim]
    low, high = pages.amin(dim=1), pages.amax(dim=1)
    # Channel by channel the larger product; no key between them has more.
    return torch.maximum(query * low, query * high).sum(dim=-1)
