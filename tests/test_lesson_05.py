"""Lesson 05: what its tables hold, what its widget does, and the numbers that its text quotes."""

from __future__ import annotations

import pytest
import torch

from kvlab.doctor import check
from kvlab.lesson import l05, l05_cuts
from kvlab.model import Decoder

STEPS = ["offset-by-one", "positions-restart", "mask-top-left", "no-mask-in-chunk", "own-entry-left-out"]


pytestmark = pytest.mark.usefixtures("no_gradients")


def test_a_chunk_shows_what_single_tokens_do_not(exact: Decoder) -> None:
    worst = l05.worst_by_cut(exact, [l05.RIGHT, "offset-by-one", "no-mask-in-chunk"])
    assert list(l05.CUTS) == ["one call", "prompt, then one by one", "one by one", "in chunks"]
    assert (worst[0] < l05.SAME).all() and (worst[:, 0] < l05.SAME).all()
    assert (worst[1, 1:] > 2).all()
    assert (worst[2, :3] < l05.SAME).all() and worst[2, 3] > 2


def test_each_mistake_is_explained_by_its_own_theory_only(exact: Decoder) -> None:
    left = l05.unexplained(exact, STEPS)
    own = torch.eye(len(STEPS), dtype=torch.bool)
    assert (left[own] < 1e-10).all()
    assert (left[~own] > 4).all()


def test_rounding_shrinks_and_a_mistake_stays() -> None:
    right, wrong = l05.by_precision().values()
    assert right[0] > 0.01 > 1e-3 > right[1] > 1e-12 > right[2]
    assert min(wrong) > 2


def test_the_hidden_step_is_one_of_five(exact: Decoder) -> None:
    class Hidden:
        __slots__ = ("run",)

        def __call__(self, tokens, state):
            return self.run(tokens, state)

    hidden = Hidden()
    hidden.run = l05.stepper(exact, off=1)
    assert check(hidden.run).names == {"offset-by-one"}
    names = check(hidden, vocab_size=exact.config.vocab_size).names
    assert len(names) == 5 and "offset-by-one" in names


def test_calls_cover_the_text() -> None:
    assert l05_cuts.calls(6, 1) == (6, 1, 1, 1, 1, 1, 1)
    assert l05_cuts.calls(5, 4) == (5, 4, 3)
    assert l05_cuts.calls(12, 3) == (12,)


def test_the_widget_says_what_its_bars_show(exact: Decoder) -> None:
    widget = l05_cuts.Cuts(exact, ["offset-by-one", l05.RIGHT])

    def heights() -> list[bool]:
        return [bar.get_height() > l05.SAME for bar in widget.bars.bars]

    assert heights() == [False] * 6 + [True] * 6
    assert "wrong from token 6 on" in widget.words.value
    widget.first.value = 9
    assert heights() == [False] * 9 + [True] * 3
    assert sum(edge.get_visible() for edge in widget.bars.edges) == 3
    widget.misuse.value = l05.RIGHT
    assert not any(heights()) and "every token is right" in widget.words.value


def test_a_masked_chunk_is_wrong_only_where_there_are_chunks(exact: Decoder) -> None:
    widget = l05_cuts.Cuts(exact, ["no-mask-in-chunk"])
    assert "every token is right" in widget.words.value
    widget.size.value = 3
    assert "wrong from token 6 on" in widget.words.value
    assert widget.bars.figure.alt.startswith("no-mask-in-chunk, calls of 6 + 3 + 3")


def test_figures_show_what_they_were_given(exact: Decoder) -> None:
    values = torch.tensor([[1e-15, 3.25]])
    figure = l05.distances(values, ["a"], ["x", "y"], "largest |Δlogit|")
    assert [text.get_text() for text in figure.axes[0].texts] == ["same", "3.2"]
    drawn = l05.precision_figure({"right": [0.1, 0.0]}, ["bfloat16", "float64"])
    assert list(drawn.axes[0].lines[0].get_ydata()) == [0.1, l05.FLOOR]
