"""What the gallery knows about one misuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from kvlab.doctor.gallery.scenes import New, Scene, decode
from kvlab.doctor.gallery.tape import Stepper

if TYPE_CHECKING:
    from kvlab.doctor.gallery.elsewhere import Elsewhere
    from kvlab.model.decoder import Decoder

Code = Callable[..., Any]


@dataclass(frozen=True)
class Misuse:
    """One way to use a KV cache wrong, beside the right way.

    `wrong_code` and `right_code` are short functions to be read, and `make` puts them to work:
    `wrong(lm)` and `right(lm)` are each, where `who` is "step", a `Subject` whose decoding step (or crop,
    or reorder) is broken or mended, and where it is "caller", a program around a right step,
    `program(ids [1, tokens], new) -> logits [new, vocab]`, that may be called for one text after another.
    """

    name: str  # stable; what the doctor reports
    title: str
    symptom: str
    why: str
    fix: str
    wrong_code: Code
    right_code: Code
    who: Literal["step", "caller"] = "step"
    scene: Scene = decode  # where the mistake shows
    make: Callable[[Decoder, Code], Any] = Stepper
    exact: bool = True  # the right way gives the logits of full recompute

    @property
    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """Library -> the same misuse there; "transformers", "x-transformers"."""
        from kvlab.doctor.gallery.libraries import ELSEWHERE

        return ELSEWHERE.get(self.name, {})

    def wrong(self, lm: Decoder) -> Any:
        """The mistake on a model: a `Subject`, or a program."""
        return self.make(lm, self.wrong_code)

    def right(self, lm: Decoder) -> Any:
        """The same without the mistake."""
        return self.make(lm, self.right_code)

    def loop(self, lm: Decoder, ids: Tensor, new: New, right: bool = False) -> Tensor:
        """Logits `[new, vocab]` after the prompt `ids [1, tokens]`, in the scene where the mistake shows.

        new: how many tokens, chosen greedily, or the tokens themselves. Row i is what token i came from.
        """
        return self.scene(self.right(lm) if right else self.wrong(lm), ids, new)
