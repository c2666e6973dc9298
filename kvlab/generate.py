"""Generate text: one loop for naive recompute, every cache, and the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from kvlab.cache import Cache
from kvlab.compiled import CompiledStep, why_not
from kvlab.sampling import Sampling

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Prompt = str | Sequence[int] | Tensor
UNFINISHED = "\ufffd"  # what a tokenizer shows for a character whose bytes are not all there yet


@dataclass(frozen=True)
class Generation:
    """What was generated for one prompt."""

    text: str  # the new text, without the prompt and without a stop string; "" where there is no tokenizer
    ids: list[int]  # the new tokens, a stop token included
    prompt_ids: list[int]
    stopped: Literal["length", "token", "string"]  # why it ended

    def __str__(self) -> str:
        return self.text


class _Row:
    """One sequence while it grows: its tokens, its text, and whether it is done."""

    def __init__(self, lm: Decoder, prompt_ids: list[int], stop_tokens: set[int], stop: list[str]):
        self.lm, self.prompt_ids, self.stop_tokens, self.stop = lm, prompt_ids, stop_tokens, stop
        self.ids: list[int] = []
        self.text = ""
        self.stopped: Literal["length", "token", "string"] | None = None

    def add(self, token: int) -> None:
        self.ids.append(token)
        if token in self.stop_tokens:
            self.stopped = "token"
            return
        if self.lm.tokenizer is not None:
            self.text = self.lm.tokenizer.decode(self.ids)
        ends = [self.text.find(s) for s in self.stop if s in self.text]
        if ends:
            self.text, self.stopped = self.text[: min(ends)], "string"

    def settled(self) -> str:
        """The text that no later token can change: not half a character, not the start of a stop string."""
        if self.stopped is not None:
            return self.text
        hold = max(
            (n for s in self.stop for n in range(1, len(s)) if self.text.endswith(s[:n])),
            default=0,
        )
        text = self.text[: len(self.text) - hold]
        return text.rstrip(UNFINISHED) if text.endswith(UNFINISHED) else text

    def result(self) -> Generation:
        return Generation(self.text, self.ids, self.prompt_ids, self.stopped or "length")


def generate(
    lm: Decoder,
    prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
    cache: Cache | None = None,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    stop_tokens: Sequence[int] | None = None,
    compile: bool | None = None,
    progress: bool | None = None,
) -> Generation | list[Generation]:
    """Continue a prompt, or each prompt of a list (padded on the left).

    Args:
        lm: the model.
        prompt: text, token ids, or a list of either. With a cache that has seen tokens, only what comes
            after them: the cache is the context.
        cache: None recomputes everything at every token; otherwise it is extended by the prompt and all
            new tokens but the last.
        max_new_tokens: stop after so many.
        temperature, top_k, top_p, min_p: see `Sampling`; temperature 0 is greedy.
        seed: of the draws; the same seed gives the same tokens on the same machine.
        stop: strings that end a text; they are cut off.
        stop_tokens: ids that end a text; None: the model's own.
        compile: run a static cache's steps compiled. None: if that is possible here.
        progress: a progress bar. None: once it takes longer than two seconds.

    Raises:
        ValueError: an empty prompt, text without a tokenizer, or a sampling setting out of range.
        CacheError: the cache is too small for prompt and new tokens (nothing has run then), or does not fit.
    """
    rows, batched = _rows(lm, prompt, stop, stop_tokens)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    steps = _steps(lm, rows, cache, max_new_tokens, sampling, seed, compile)
    for _ in _watched(steps, max_new_tokens, progress):
        pass
    results = [row.result() for row in rows]
    return results if batched else results[0]


def stream(
    lm: Decoder, prompt: Prompt, cache: Cache | None = None, max_new_tokens: int = 40, **options: Any
) -> Iterator[str]:
    """Yield the new text piece by piece as it comes; arguments as in `generate`, one prompt only.

    The pieces add up to `generate(…).text`. A character, or what may become a stop string, is held back
    until it is complete.
    """
    sampling = Sampling(*(options.pop(name, default) for name, default in _SAMPLING.items()))
    rows, batched = _rows(lm, prompt, options.pop("stop", ()), options.pop("stop_tokens", None))
    if batched:
        raise ValueError("stream takes one prompt; use generate for a list of them.")
    seed, compile = options.pop("seed", 0), options.pop("compile", None)
    if options:
        raise TypeError(f"stream does not know {', '.join(options)}.")
    shown = 0
    for _ in _steps(lm, rows, cache, max_new_tokens, sampling, seed, compile):
        text = rows[0].settled()
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
    if len(rows[0].text) > shown:
        yield rows[0].text[shown:]


_SAMPLING = {"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None}


def _steps(
    lm: Decoder,
    rows: list[_Row],
    cache: Cache | None,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    compile: bool | None,
) -> Iterator[None]:
    """The loop: a prompt, then one token after the other, until every row is done."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
    cache = Cache(lm, store="none") if cache is None else cache
    ids, mask = pad_left([row.prompt_ids for row in rows], lm)
    if cache.remaining is not None:
        cache.require(ids.shape[1] + max_new_tokens - 1)
    generator = torch.Generator(device=lm.device).manual_seed(seed)
    step = _step(lm, cache, compile)
    logits = lm(ids, cache, mask, last_only=True)
    for i in range(max_new_tokens):
        tokens = sampling.draw(logits[:, -1], generator)  # [batch]
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row.stopped is None:
                row.add(token)
        yield
        running = [row.stopped is None for row in rows]
        if not any(running) or i == max_new_tokens - 1:
            return
        if all(running):
            logits = step(tokens[:, None])
        else:  # a finished row goes on as padding, which nobody sees
            logits = lm(tokens[:, None], cache, torch.tensor(running, device=lm.device)[:, None])


def _step(lm: Decoder, cache: Cache, compile: bool | None) -> Callable[[Tensor], Tensor]:
    possible = cache.kind.compilable if compile is None else compile
    if possible and (compile or why_not(cache) is None):
        return CompiledStep(lm, cache)
    return lambda ids: lm(ids, cache)


def pad_left(prompts: list[list[int]], lm: Decoder) -> tuple[Tensor, Tensor | None]:
    """Ids `[batch, tokens]` and mask, False at padding; None where all are equally long."""
    longest = max(map(len, prompts))
    pad = lm.config.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=lm.device)
    lengths = torch.tensor([len(p) for p in prompts], device=lm.device)
    if int(lengths.min()) == longest:
        return ids, None
    return ids, torch.arange(longest, device=lm.device) >= longest - lengths[:, None]


def _rows(
    lm: Decoder, prompt: Any, stop: str | Sequence[str], stop_tokens: Sequence[int] | None
) -> tuple[list[_Row], bool]:
    if isinstance(prompt, Tensor):
        prompt = prompt.tolist()
    batched = not isinstance(prompt, str) and len(prompt) > 0 and not isinstance(prompt[0], int)
    prompts = [_ids(lm, p) for p in prompt] if batched else [_ids(lm, prompt)]
    tokens = set(lm.config.eos_token_ids if stop_tokens is None else stop_tokens)
    stop = [stop] if isinstance(stop, str) else list(stop)
    if stop and lm.tokenizer is None:
        raise ValueError("stop strings need a tokenizer, and this model has none; use stop_tokens.")
    return [_Row(lm, ids, tokens, [s for s in stop if s]) for ids in prompts], batched


def _ids(lm: Decoder, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        if lm.tokenizer is None:
            raise ValueError(f"{lm.config.name} has no tokenizer; give token ids, not text.")
        ids: list[int] = lm.tokenizer.encode(prompt)
    else:
        ids = prompt.tolist() if isinstance(prompt, Tensor) else list(prompt)
    if not ids:
        raise ValueError(
            "the prompt is empty: there is no position to predict from; give at least one token."
        )
    wrong = next((i for i in ids if not 0 <= i < lm.config.vocab_size), None)
    if wrong is not None:
        raise ValueError(f"token id {wrong} is not in the vocabulary, 0 … {lm.config.vocab_size - 1}.")
    return ids


def _watched(steps: Iterator[None], total: int, progress: bool | None) -> Iterator[None]:
    if progress is False:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, total=total, unit="token", delay=0 if progress else 2, leave=False)
