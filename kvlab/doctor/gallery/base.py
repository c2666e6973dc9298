"""What the gallery knows about one misuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from kvlab.doctor.gallery.scenes import New, Scene, decode
from kvlab.doctor.gallery.tape import Stepper
from kvlab.doctor.subject import Subject

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Code = Callable[..., Tensor]


@dataclass(frozen=True)
class Misuse:
    """One way to use a KV cache wrong, beside the right way.

    `wrong_code` and `right_code` are short functions to be read. Where `who` is "step" they are one
    decoding step, `(cache, tokens) -> logits`. Where it is "caller" the step is right and the loop around
    it is not: they are loops, `(lm, ids [1, tokens], new) -> logits [new, vocab]`.
    """

    name: str  # stable; what the doctor reports
    title: str
    symptom: str
    why: str
    fix: str
    wrong_code: Code
    right_code: Code
    who: Literal["step", "caller"] = "step"
    scene: Scene = decode  # where a step's mistake shows
    make: Callable[..., Subject] = Stepper  # (lm, code) -> a subject
    exact: bool = True  # the right way gives the logits of full recompute
    elsewhere: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # library -> its own case

    def wrong(self, lm: Decoder, *loop: Any) -> Any:
        """A step: the broken `Subject`. A caller's mistake: `wrong(lm, ids, new)` gives its logits."""
        return self._run(self.wrong_code, lm, *loop)

    def right(self, lm: Decoder, *loop: Any) -> Any:
        """The same, mended."""
        return self._run(self.right_code, lm, *loop)

    def _run(self, code: Code, lm: Decoder, *loop: Any) -> Any:
        return self.make(lm, code) if self.who == "step" else code(lm, *loop)

    def loop(self, lm: Decoder, ids: Tensor, new: New, right: bool = False) -> Tensor:
        """Logits `[new, vocab]` after the prompt `ids [1, tokens]`, of either kind of misuse.

        new: how many tokens, chosen greedily, or the tokens themselves. Row i is what token i came from.
        """
        run = self.right if right else self.wrong
        return self.scene(run(lm), ids, new) if self.who == "step" else run(lm, ids, new)
