"""Where a misuse shows: a prompt and what is done with it before the text goes on.

Each scene runs a subject, or a caller, and gives logits `[new, vocab]`: row i is what new token i is chosen
from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kvlab.doctor.subject import Subject

New = int | Sequence[int]  # so many tokens, chosen greedily; or these tokens, whatever the logits say
Scene = Callable[[Any, Tensor, New], Tensor]
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
OTHER = "Water boils at one hundred degrees. Birds fly south in autumn, and the"


def go_on(step: Step, logits: Tensor, state: Any, new: New, row: int = 0) -> Tensor:
    """Token by token from `logits [batch, tokens, vocab]` of the prompt: `[new, vocab]` of one row.

    Every row of the batch is given the token of that row.
    """
    given = None if isinstance(new, int) else list(new)
    count = new if isinstance(new, int) else len(new)
    said = [logits[row, -1]]
    while len(said) < count:
        token = int(said[-1].argmax()) if given is None else given[len(said) - 1]
        logits, state = step(torch.full_like(logits[:, :1, 0], token, dtype=torch.int64), state)
        said.append(logits[row, -1])
    return torch.stack(said)


def other(like: Tensor, of: Any) -> Tensor:
    """Another prompt, as long as `like [1, tokens]`; its tokens backwards, if `of` has no `lm` that reads."""
    tokenizer = getattr(getattr(of, "lm", None), "tokenizer", None)
    if tokenizer is None:
        return like.flip(1)
    text = torch.tensor([tokenizer.encode(OTHER)], device=like.device)
    return text.repeat(1, -(-like.shape[1] // text.shape[1]))[:, : like.shape[1]]


def decode(subject: Subject, ids: Tensor, new: New) -> Tensor:
    """The prompt `[1, tokens]` in one call, then token by token."""
    return go_on(subject.step, *subject.step(ids, None), new)


def in_chunks(subject: Subject, ids: Tensor, new: New) -> Tensor:
    """The prompt in two calls (chunked prefill), then token by token."""
    half = ids.shape[1] // 2
    _, state = subject.step(ids[:, :half], None)
    return go_on(subject.step, *subject.step(ids[:, half:], state), new)


def padded(subject: Subject, ids: Tensor, new: New) -> Tensor:
    """The prompt, padded on the left, in a batch with a longer one."""
    before = other(ids, subject)[:, :8]
    batch = torch.cat([torch.cat([torch.zeros_like(before), ids], 1), torch.cat([before, ids], 1)])
    mask = torch.ones_like(batch, dtype=torch.bool)
    mask[0, : before.shape[1]] = False
    return go_on(subject.step, *subject.step(batch, None, mask), new)


def cropped(subject: Subject, ids: Tensor, new: New) -> Tensor:
    """Four tokens too many are tried and taken back, as in speculative decoding."""
    _, state = subject.step(ids, None)
    _, state = subject.step(other(ids, subject)[:, :4], state)
    state = subject.crop(state, ids.shape[1] - 1)
    return go_on(subject.step, *subject.step(ids[:, -1:], state), new)


def reordered(subject: Subject, ids: Tensor, new: New) -> Tensor:
    """Two rows; row 0 is to go on with what row 1 was, as when beam search drops a beam."""
    _, state = subject.step(torch.cat([other(ids, subject), ids])[:, :-1], None)
    state = subject.reorder(state, [1, 1])
    return go_on(subject.step, *subject.step(ids[:, -1:].expand(2, 1), state), new)


def alone(caller: Any, ids: Tensor, new: New) -> Tensor:
    """The prompt, and nothing before it."""
    return caller(ids, new)


def second_text(caller: Any, ids: Tensor, new: New) -> Tensor:
    """The prompt, after another one of the same length was answered."""
    caller(other(ids, caller), 4)
    return caller(ids, new)


def second_question(caller: Any, ids: Tensor, new: New) -> Tensor:
    """The prompt, after another one that begins with the same half."""
    prefix, question = ids.tensor_split(2, dim=1)
    caller(torch.cat([prefix, other(question, caller)], dim=1), 4)
    return caller(ids, new)
