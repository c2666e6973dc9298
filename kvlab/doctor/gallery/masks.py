"""Masks that are right without a cache, and wrong with one.

A mask is `[new, slots]`, True where a query may look; the past comes first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.doctor.gallery.base import Misuse
from kvlab.doctor.gallery.scenes import in_chunks
from kvlab.doctor.gallery.tape import Tape
from kvlab.doctor.loose import causal_mask


def past_hidden(cache: Tape, tokens: Tensor) -> Tensor:
    new = tokens.shape[1]
    among_new = causal_mask(new, new)
    return cache(tokens, mask=F.pad(among_new, (cache.length, 0), value=False))


def past_visible(cache: Tape, tokens: Tensor) -> Tensor:
    new = tokens.shape[1]
    among_new = causal_mask(new, new)
    return cache(tokens, mask=F.pad(among_new, (cache.length, 0), value=True))


NEW_ONLY = Misuse(
    "mask-new-tokens-only",
    "The mask covers the new tokens only",
    symptom="The first new token is right. Then one sign comes over and over, as if there were no prompt.",
    why="A mask speaks about keys, and most keys are in the cache. Made as long as the new tokens and padded "
    "with False, it hides the whole past.",
    fix="The mask is as long as cache and new tokens together, with ones for the past.",
    wrong_code=past_hidden,
    right_code=past_visible,
)


def top_left(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    return cache(tokens, mask=torch.ones(new, slots, dtype=torch.bool).tril())


def bottom_right(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    return cache(tokens, mask=torch.ones(new, slots, dtype=torch.bool).tril(slots - new))


TOP_LEFT = Misuse(
    "mask-top-left",
    "The causal triangle is aligned top-left",
    symptom="The first new token is right. Then one sign comes over and over, as if there were no prompt.",
    why="One new query over many keys is a mask of one row. Aligned top-left, that row shows the first key "
    "alone: query i sees keys 0 … i, as if there were no past. PyTorch's `is_causal=True` is aligned so.",
    fix="Align the triangle bottom-right: the last query sees every key. One new token needs no mask.",
    wrong_code=top_left,
    right_code=bottom_right,
)


def unmasked_chunk(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    later_chunk = torch.ones(new, slots, dtype=torch.bool)
    return cache(tokens, mask=later_chunk if cache.length else causal_mask(new, new))


def masked_chunk(cache: Tape, tokens: Tensor) -> Tensor:
    new, slots = tokens.shape[1], cache.length + tokens.shape[1]
    later_chunk = causal_mask(new, slots)
    return cache(tokens, mask=later_chunk if cache.length else causal_mask(new, new))


NO_MASK = Misuse(
    "no-mask-in-chunk",
    "A later chunk of the prompt goes in without a mask",
    symptom="Decoding is exact. A prompt that is read in chunks gets a fluent answer with other facts, or "
    "even the same one from wrong logits.",
    why="“With a cache no mask is needed” is true for one new token. In a chunk of several, the earlier ones "
    "see the later ones, and the keys and values computed so are kept.",
    fix="Every chunk of more than one token needs the causal mask over past and chunk, bottom-right.",
    wrong_code=unmasked_chunk,
    right_code=masked_chunk,
    scene=in_chunks,
)


def attend_first(cache: Tape, tokens: Tensor) -> Tensor:
    new, past = tokens.shape[1], cache.length
    if past == 0:
        return cache(tokens)
    in_cache = torch.arange(past + new) < past
    return cache(tokens, mask=in_cache.expand(new, -1))


def append_first(cache: Tape, tokens: Tensor) -> Tensor:
    new, past = tokens.shape[1], cache.length
    return cache(tokens, mask=causal_mask(new, past + new))


OWN_ENTRY = Misuse(
    "own-entry-left-out",
    "The new token attends before its own key and value are appended",
    symptom="Fluent text in the right neighbourhood, with other words and other facts.",
    why="A token attends to itself too. Attending to the cache first and appending after leaves its own "
    "entry out of the very step that needs it most; later steps do see it.",
    fix="Append the new key and value, then attend over all of them.",
    wrong_code=attend_first,
    right_code=append_first,
)
