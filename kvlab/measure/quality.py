"""Judge a lossy cache: what it does to the next words, to facts in the context, and to exact copying.

Every token after the prompt goes through the cache by itself, as in decoding. A forward call over the whole
text would attend exactly, and a cache that loses everything would look perfect.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvlab.measure.machine import versions
from kvlab.measure.quality_runs import (
    ANSWER,
    Factory,
    Prompt,
    Task,
    Tick,
    continuation,
    copying,
    needles,
    needles_aware,
    reference,
)
from kvlab.measure.quality_texts import beginning, haystack, random_tokens, windows
from kvlab.zoo.paths import home

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

EXACT = 1e-8  # nats: in float32 an exact cache differs by rounding only; lossy ones start far above
EVALUATIONS = ("kl", "needles", "copying")


Failed = Callable[[str, BaseException], None]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    offsets: stretches of the corpus, the rows of one batch. tokens: of their prompts. further: tokens that
    are teacher-forced after it. needles: contexts of each of the lengths `needle_tokens`. protocol:
    "agnostic" (the question comes after the context was cached), "aware" (both are one prompt), "both".
    copies: lengths of the random stretches to repeat. evaluations: of EVALUATIONS.

    Raises:
        ValueError: a number below 1, an unknown evaluation or protocol.
    """

    offsets: int = 5
    tokens: int = 1024
    further: int = 256
    needles: int = 8
    needle_tokens: tuple[int, ...] = (512, 1024)
    protocol: str = "agnostic"
    copies: tuple[int, ...] = (64, 128)
    evaluations: tuple[str, ...] = EVALUATIONS
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"offsets": self.offsets, "tokens": self.tokens, "further": self.further}
        counts |= {"needles": self.needles, "needle_tokens": min(self.needle_tokens, default=1)}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        unknown = [name for name in self.evaluations if name not in EVALUATIONS]
        if unknown or not self.evaluations:
            raise ValueError(f"evaluations are {', '.join(EVALUATIONS)}; not {', '.join(unknown) or 'none'}.")
        if self.protocol not in ("agnostic", "aware", "both"):
            raise ValueError(f"protocol is agnostic, aware or both, not {self.protocol!r}.")


QUICK = Settings(offsets=2, tokens=128, further=16, needles=2, needle_tokens=(256,), copies=(16,))


@dataclass
class Bench:
    """The texts of a run, and what the model makes of them before any method comes: computed once, lazily."""

    lm: Decoder
    settings: Settings
    _kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[..., Any], *args: object) -> Any:
        """`make(*args)`, computed the first time that `name` is asked for."""
        if name not in self._kept:
            self._kept[name] = make(*args)
        return self._kept[name]

    def run(self, make: Factory, tick: Tick) -> dict[str, Any]:
        """All evaluations of one method."""
        runs = {"kl": self._kl, "needles": self._needles, "copying": self._copying}
        found: dict[str, Any] = {}
        for name in self.settings.evaluations:
            found |= runs[name](make, tick)
        return found

    def _kl(self, make: Factory, tick: Tick) -> dict[str, Any]:
        s = self.settings
        ids = self.once("ids", windows, self.lm, s.offsets, s.tokens + s.further)
        prompt = self.once("prompt", Prompt.take, self.lm, ids[:, : s.tokens])
        further = ids[:, s.tokens :]
        full = self.once("full", kept_reference, self.lm, prompt, further)
        cache = make(Task(s.tokens, ids.shape[1], s.offsets))
        found = continuation(self.lm, cache, prompt, further, full, tick)
        return {**found, "exact": max(found["kl"]) < EXACT}

    def _needles(self, make: Factory, tick: Tick) -> dict[str, Any]:
        s = self.settings
        found: dict[str, Any] = {}
        for tokens in s.needle_tokens:
            hay = self.once(f"hay {tokens}", haystack, self.lm, s.needles, tokens, s.seed)
            longest = max(q.shape[1] for q in hay.questions.values())
            task = Task(tokens, tokens + longest + ANSWER, s.needles)
            if s.protocol != "aware":
                prompt = self.once(f"context {tokens}", Prompt.take, self.lm, hay.ids)
                found.setdefault("needles", {})[str(tokens)] = needles(self.lm, make(task), prompt, hay, tick)
            if s.protocol != "agnostic":
                right = needles_aware(self.lm, make, task, hay, tick)
                found.setdefault("needles_aware", {})[str(tokens)] = right
        return found

    def _copying(self, make: Factory, tick: Tick) -> dict[str, Any]:
        s, start = self.settings, beginning(self.lm)
        found = {}
        for tokens in s.copies:
            ids = random_tokens(self.lm, s.offsets, tokens, s.seed)
            first = torch.cat((torch.tensor([start] * s.offsets, device=ids.device).long(), ids), dim=1)
            prompt = self.once(f"copy {tokens}", Prompt.take, self.lm, first)
            task = Task(first.shape[1], first.shape[1] + tokens, s.offsets)
            found[str(tokens)] = copying(self.lm, make(task), prompt, ids, tick)
        return {"copying": found}

    def ticks(self) -> int:
        """Steps of one method, for a progress bar."""
        s = self.settings
        asked = len(s.needle_tokens) * 2 * (ANSWER + 16) * (2 if s.protocol == "both" else 1)
        parts = {"kl": s.further, "needles": asked, "copying": sum(s.copies)}
        return sum(parts[name] for name in s.evaluations)


def quality(
    lm: Decoder,
    methods: Mapping[str, Factory],
    settings: Settings | None = None,
    finished: Callable[[str, dict[str, Any]], None] | None = None,
    failed: Failed | None = None,
    progress: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """Judge caches on real text, for example `{"int8": lambda task: kvlab.Cache(lm, codec=kvlab.Int8())}`.

    methods: name -> what makes a new, empty cache for a `Task`. finished: called with each method's result
    as it comes. failed: called where a method raises, and the run goes on; None: it raises. progress: a bar
    (None: where tqdm is installed and this is a terminal).

    Returns for each method what `continuation`, `needles` and `copying` return, one number a text, so that
    `kvlab.measure.quality_stats` can give intervals, with "exact": whether its KL is rounding only.
    """
    bench = Bench(lm, settings or Settings())
    results: dict[str, dict[str, Any]] = {}
    for name, make in methods.items():
        start = time.process_time()
        bar = _bar(name, bench.ticks(), progress)
        try:
            result = bench.run(make, bar.update if bar else lambda: None)
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
            continue
        finally:
            if bar:
                bar.close()
        results[name] = {**result, "cpu_seconds": round(time.process_time() - start, 1)}
        if finished:
            finished(name, results[name])
    return results


def kept_reference(lm: Decoder, prompt: Prompt, further: Tensor) -> Tensor:
    """What `reference` returns; kept in kvlab's folder by model, texts, precision and versions."""
    about = [lm.config, lm.dtype, lm.device.type, versions()["torch"], versions()["kvlab"]]
    digest = hashlib.sha256(repr(about).encode())
    for tensor in (prompt.ids, further, lm.norm.weight, lm.blocks()[0].self_attn.qkv):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    file = home() / "quality" / f"{lm.config.name}-{digest.hexdigest()[:16]}.pt"
    if file.is_file():
        kept: Tensor = torch.load(file, map_location=lm.device, weights_only=True)
        return kept
    hidden = reference(lm, prompt, further)
    _write(file, hidden)
    return hidden


def _write(file: Path, tensor: Tensor) -> None:
    """All or nothing: another run may be reading."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    torch.save(tensor.cpu(), temporary)
    os.replace(temporary, file)


def settings_of(settings: Settings) -> dict[str, Any]:
    """As JSON keeps it."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}


def _bar(name: str, total: int, progress: bool | None) -> Any:
    if progress is False:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc=name, leave=False, disable=None if progress is None else False, unit="step")
