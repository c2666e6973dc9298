"""The widget of lesson 19: train the indexer of one layer a little, and see what it picks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ipywidgets import Button, Dropdown, HBox, IntSlider

from .l19 import ROWS, Pupil
from .l19_figures import pupil_figure
from .style import Drawing
from .widgets import Exhibit, live, on_click

if TYPE_CHECKING:
    from kvlab.learned.capture import Capture

STEPS = 20


class School(Exhibit):
    """`.layer`, `.row`, `.train` and `.again` are the controls; `.pupil` is what is being trained."""

    def __init__(self, taught: Capture, judged: Capture, layer: int, row: int) -> None:
        self.windows = taught, judged
        self.pupil = Pupil(taught, judged, layer)
        layers = sorted({0, 3, 5, 8, 16, 25, layer})
        self.layer = Dropdown(options=layers, value=layer, description="layer")
        self.row = IntSlider(row, min=0, max=ROWS - 1, description="query")
        self.train = Button(description=f"train {STEPS} steps")
        self.again = Button(description="start again")
        self.view = live(self._draw, self.layer, self.row)
        says = [on_click(self.train, self._teach), on_click(self.again, self._restart)]
        super().__init__(
            [HBox([self.layer, self.row]), HBox([self.train, self.again]), *says, self.view],
            title="School: train the indexer of one layer, and see what it picks",
            picture=functools.partial(_after, taught, judged, layer, row),
        )

    def _draw(self, layer: int, row: int) -> Drawing:
        if layer != self.pupil.layer:
            self.pupil = Pupil(*self.windows, layer)
        return pupil_figure(self.pupil, row)

    def _teach(self) -> None:
        self.pupil.teach(STEPS)
        self.view.refresh()

    def _restart(self) -> None:
        self.pupil = Pupil(*self.windows, self.layer.value)
        self.view.refresh()


def _after(taught: Capture, judged: Capture, layer: int, row: int) -> Drawing:
    """The picture where nothing runs: after 100 steps."""
    pupil = Pupil(taught, judged, layer)
    for _ in range(5):
        pupil.teach(STEPS)
    return pupil_figure(pupil, row)


def school(taught: Capture, judged: Capture, layer: int = 5, row: int = 60) -> School:
    """The widget over a training window and a held-out one (`l19.windows`)."""
    return School(taught, judged, layer, row)
