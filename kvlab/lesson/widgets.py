"""Widgets that are also pictures: `Exhibit` shows live controls, or a picture where nothing runs.

Callbacks only write `.value` of HTML widgets: they never print, so that a notebook's outputs
are equal on every run.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ipywidgets import HTML, VBox, Widget

from .style import BACKGROUND, RUST, Drawing
from .tables import card, inline

Picture = Drawing | Callable[[], Drawing]


class Exhibit(VBox):
    """A box of widgets with a fallback for places that run nothing: a code host, nbconvert, an untrusted lab.

    Give `picture` (a `Drawing`, or a function that draws the default state; called when shown), or
    `html` (text a reader should see instead), and `title`, one line that `text/plain` gets.
    """

    def __init__(
        self,
        children: Sequence[Widget],
        *,
        title: str,
        picture: Picture | None = None,
        html: str | None = None,
        **kwargs: Any,
    ) -> None:
        if (picture is None) == (html is None):
            raise ValueError("an Exhibit needs one fallback: picture=… or html=…")
        super().__init__(children=tuple(children), **kwargs)
        self._title, self._picture, self._html = title, picture, html
        self.add_class("kvlab-exhibit")

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        live: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        # Only what the live widget adds: its own text/plain is a repr that changes with every version.
        data = {kind: value for kind, value in live.items() if kind != "text/plain"}
        data["text/plain"] = f"[widget] {self._title} (run this cell to use it)"
        if self._html is not None:
            return {**data, "text/html": self._html}, {}
        drawn = self._picture() if callable(self._picture) else self._picture
        assert drawn is not None
        data["image/png"] = base64.b64encode(drawn.png()).decode("ascii")
        return data, {"image/png": {"width": round(drawn.get_figwidth() * 96), "alt": drawn.alt}}


Shown = str | Drawing | None


class Live(VBox):
    """What `live` returns: shows what a function draws, again whenever one of its controls moves.

    Moves that arrive while a picture is being drawn are not queued: only the newest is drawn next
    (the browser also holds back moves until the kernel has answered). `.html.value` holds
    what is shown; `.drawn` counts the drawings.
    """

    def __init__(self, draw: Callable[..., Shown], controls: Sequence[Widget]) -> None:
        self.html = HTML()
        super().__init__(children=(self.html,))
        self.drawn = 0
        self._draw, self._controls = draw, tuple(controls)
        self._last: tuple[Any, ...] | None = None
        self._busy = False
        for control in self._controls:
            control.observe(self._moved, names="value")
        self.refresh()

    def refresh(self) -> None:
        """Draw again even if no control moved."""
        self._last = None
        self._moved(None)

    def _moved(self, _change: Any) -> None:
        if self._busy:  # a control was moved by the drawing itself: the loop below sees the new value
            return
        self._busy = True
        try:
            while (values := tuple(c.value for c in self._controls)) != self._last:
                self._last = values
                self._show(values)
        finally:
            self._busy = False

    def _show(self, values: tuple[Any, ...]) -> None:
        self.drawn += 1
        try:
            shown = self._draw(*values)
        except Exception as error:
            shown = _failed(error)
        if shown is not None:
            self.html.value = picture_html(shown) if isinstance(shown, Drawing) else shown


def picture_html(drawn: Drawing) -> str:
    """A drawing as an HTML image for a widget, with its words for who can't see it.

    An ipywidgets `Image` has no alternative text. The size is given and the picture decoded at once, so
    that nothing jumps or flickers when it changes.
    """
    data = base64.b64encode(drawn.frame()).decode("ascii")
    width, height = round(drawn.get_figwidth() * 96), round(drawn.get_figheight() * 96)
    words = escape(drawn.alt, quote=True)
    size = f'width="{width}" height="{height}" style="max-width:100%;height:auto"'
    return f'<img src="data:image/png;base64,{data}" alt="{words}" decoding="sync" {size}>'


def live(draw: Callable[..., Shown], *controls: Widget) -> Live:
    """Show `draw(*values of controls)` and keep it up to date.

    `draw` returns a `Drawing`, a string of HTML (see `tables`), or None when it wrote into widgets itself.
    Aim at 150 ms: precompute what is slower, or put it behind `on_click`.
    """
    return Live(draw, controls)


def on_click(button: Widget, work: Callable[[], Any]) -> HTML:
    """Run `work` when a button is pressed; the button is off meanwhile, so that clicks don't pile up.

    Returns a line to put under the button: it stays empty unless `work` fails, and then says how.
    """
    says = HTML()

    def clicked(_button: Any) -> None:
        button.disabled, says.value = True, ""
        try:
            work()
        except Exception as error:
            says.value = _failed(error)
        finally:
            button.disabled = False

    button.on_click(clicked)
    return says


def _failed(error: Exception) -> str:
    """An exception in a callback would vanish in the server's log: say it where the learner looks."""
    return card(inline(f"This widget failed: {type(error).__name__}: {error}"), RUST)


def note(text: str = "") -> HTML:
    """A line of text under controls, in the lesson's look; write its `.value` with `card(inline(…))`."""
    return HTML(card(inline(text)) if text else "")


__all__ = ["BACKGROUND", "Exhibit", "Live", "live", "note", "on_click", "picture_html"]
