"""The bit dial: bits × axis × group × residual × sink on the keys and values of one head."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from ipywidgets import HTML, Button, Dropdown, HBox, IntSlider, SelectionSlider, VBox
from PIL import Image
from torch import Tensor

from kvlab.cache import CodecPair
from kvlab.codecs import Quantize

from .l12 import Written, compare, entries, say, write
from .style import BLUE, DIVERGING, GREEN, INK, OCHRE, QUIET, RUST, Drawing, drawing, styled
from .tables import card, inline
from .widgets import Exhibit, live, on_click

if TYPE_CHECKING:
    from kvlab.model.decoder import Decoder

Way = Literal["KIVI", "token", "channel", "tensor"]
AXES: dict[Way, tuple[Literal["token", "channel", "tensor"], Literal["token", "channel", "tensor"]]] = {
    "KIVI": ("channel", "token"),
    "token": ("token", "token"),
    "channel": ("channel", "channel"),
    "tensor": ("tensor", "tensor"),
}
LABELS = {
    "KIVI: K by channel, V by token": "KIVI",
    "both by token": "token",
    "both by channel": "channel",
    "one scale a block": "tensor",
}
GROUPS = (8, 16, 32, 64)
LOUDER = 2  # an error is shown so many times as large as it is
PARTS = {"codes": BLUE, "scales": OCHRE, "minima": GREEN, "exact": RUST}


@dataclass(frozen=True)
class Setting:
    """Where the dial stands."""

    bits: int
    way: Way
    group: int
    residual: int
    sink: int

    @property
    def codecs(self) -> tuple[Quantize, Quantize]:
        """For keys and for values."""
        keys, values = (
            Quantize(self.bits, axis, self.group, self.residual, self.sink) for axis in AXES[self.way]
        )
        return keys, values


class Scene:
    """A prompt in the cache, one head of it to look at, and what comes after, computed once."""

    def __init__(self, lm: Decoder, prompt: str, layer: int, head: int, new: int = 14) -> None:
        self.lm, self.prompt, self.new = lm, prompt, new
        self.ids = torch.tensor([lm.tokenizer.encode(prompt)], device=lm.device)
        keys, values = entries(lm, self.ids)
        self.place = f"layer {layer}, KV head {head}"
        self.streams = {"keys": keys[layer, None, head, None], "values": values[layer, None, head, None]}
        self.full = say(lm, prompt, None, new).text
        tail = lm.tokenizer.encode(prompt + self.full)[self.ids.shape[1] :]
        self.further = torch.tensor([tail], device=lm.device)  # the full cache's own words
        self.heard: dict[Setting, tuple[float, str]] = {}

    def written(self, setting: Setting) -> dict[str, Written]:
        """Both streams `[1, 1, tokens, head_dim]` through the stream of the store."""
        pairs = zip(self.streams.items(), setting.codecs, strict=True)
        return {name: write(codec, x) for (name, x), codec in pairs}

    def hear(self, setting: Setting) -> tuple[float, str]:
        """KL on the full cache's own words, and the greedy text: through the whole model, kept."""
        if setting not in self.heard:
            codec: CodecPair = setting.codecs
            kl = compare(self.lm, self.ids, self.further, {"": codec})[""]["kl"][0]
            self.heard[setting] = kl, say(self.lm, self.prompt, codec, self.new).text
        return self.heard[setting]


def looks(x: Tensor, found: Written) -> dict[str, Tensor]:
    """What is pictured of a stream."""
    return {"original": x, "read back": found.back, f"error × {LOUDER}": LOUDER * (found.back - x)}


def colour_range(x: Tensor) -> float:
    """The number that gets the darkest colour: only the loudest channels are beyond it."""
    return float(x.abs().quantile(0.97))


def relative_error(found: Written, x: Tensor) -> float:
    """|read back - x| / |x|."""
    return float((found.back - x).norm() / x.norm())


@functools.lru_cache(maxsize=4)
def _colours(steps: int = 256) -> np.ndarray:
    return (DIVERGING(np.linspace(0, 1, steps))[:, :3] * 255).astype(np.uint8)


def heat_png(x: Tensor, largest: float, zoom: int = 3) -> str:
    """`x [tokens, channels]` as an HTML image, blue above zero and brown below; a few milliseconds."""
    shade = ((x / largest).clamp(-1, 1).cpu().numpy() * 127.5 + 127.5).astype(np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(_colours()[shade])
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    picture.save(buffer, format="png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shown(scene: Scene, setting: Setting) -> str:
    """Pictures, error and bytes of both streams, as HTML."""
    rows = [_row(name, x, found) for (name, x), found in zip(
        scene.streams.items(), scene.written(setting).values(), strict=True)]  # fmt: skip
    return card(f"<div>{inline(scene.place)}: rows are tokens, columns channels</div>{''.join(rows)}")


def _row(name: str, x: Tensor, found: Written) -> str:
    largest, pictures = colour_range(x), looks(x, found)
    cells = "".join(
        f'<figure style="margin:4px 10px 4px 0"><img src="{heat_png(part[0, 0], largest)}" '
        f'alt="{name}, {what}"><figcaption style="color:{QUIET}">{name}: {what}</figcaption></figure>'
        for what, part in pictures.items()
    )
    error = relative_error(found, x)
    says = f"**{found.bits:.2f} bits a number**, relative error **{error:.3f}**, {found.exact} tokens exact"
    return f'<div style="display:flex;flex-wrap:wrap">{cells}</div><div>{inline(says)}</div>{bar(found)}'


def bar(found: Written, width: int = 560) -> str:
    """The bytes of a stream, split by what they are, in the float32 of the full cache; float16 is marked."""
    full = 4 * found.back.numel()
    pieces = "".join(
        f'<div title="{name}" style="width:{round(width * n / full)}px;background:{PARTS[name]}"></div>'
        for name, n in found.parts.items()
    )
    words = ", ".join(f'<b style="color:{PARTS[name]}">{name}</b> {n:,} B' for name, n in found.parts.items())
    mark = f"linear-gradient({QUIET},{QUIET}) 50% 0/1px 100% no-repeat"
    frame = f"display:flex;width:{width}px;height:12px;border:1px solid {QUIET};background:{mark}"
    says = f"{words} (frame: float32, {full:,} B; line: float16)"
    return f'<div style="{frame};overflow:hidden">{pieces}</div><div>{says}</div>'


def heard(scene: Scene, setting: Setting) -> str:
    """KL and text as HTML, or what to do for them."""
    full = inline(f"full cache: `{scene.full!r}`")
    if setting not in scene.heard:
        return card(f"{full}<br>{inline('Press **decode** to run the model with this setting.')}")
    kl, text = scene.heard[setting]
    return card(f"{full}<br>{inline(f'this cache: `{text!r}`')}<br>{inline(f'KL {kl:.4f} nats a token')}")


@styled
def dial_figure(scene: Scene, setting: Setting) -> Drawing:
    """The pictures of a setting, for places where no widget runs."""
    words = f"{setting.bits} bits, {setting.way}: keys and values of one head, read back, and the error"
    figure, axes = drawing(7.6, 5.2, alt=words, rows=2, columns=3)
    written = scene.written(setting)
    for i, (name, x) in enumerate(scene.streams.items()):
        found, largest = written[name], colour_range(x)
        for ax, (what, part) in zip(axes[3 * i :], looks(x, found).items(), strict=False):
            ax.imshow(part[0, 0].cpu().numpy(), cmap=DIVERGING, vmin=-largest, vmax=largest, aspect="auto")
            ax.set_title(f"{name}: {what}", fontsize=10)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[3 * i].set_ylabel("token")
        note = f"{found.bits:.2f} bits a number, error {relative_error(found, x):.3f}"
        axes[3 * i + 1].set_xlabel(note, color=INK)
    return figure


class BitDial(Exhibit):
    """`.bits`, `.way`, `.group`, `.residual`, `.sink` are the controls, `.button` runs the model."""

    def __init__(self, scene: Scene) -> None:
        tokens = scene.ids.shape[1]
        self.scene = scene
        self.bits = SelectionSlider(options=[8, 4, 3, 2], value=2, description="bits")
        self.way = Dropdown(options=LABELS, value="KIVI", description="axis")
        self.group = SelectionSlider(options=GROUPS, value=GROUPS[-2], description="group")
        self.residual = IntSlider(0, min=0, max=tokens // 8 * 8, step=8, description="residual")
        self.sink = IntSlider(0, min=0, max=8, step=4, description="sink")
        self.button = Button(description="decode")
        dials = (self.bits, self.way, self.group, self.residual, self.sink)
        self.view = live(self._draw(shown), *dials)
        scene.hear(self.setting)  # the state that is shown first
        self.heard = live(self._draw(heard), *dials)
        says: HTML = on_click(self.button, self._hear)
        left = VBox([self.bits, self.way, self.group])
        controls = HBox([left, VBox([self.residual, self.sink, self.button])])
        super().__init__(
            [controls, self.heard, says, self.view],
            title="Bit dial: what bits, axis, group, residual and sink do to one head",
            picture=functools.partial(dial_figure, scene, self.setting),
        )

    @property
    def setting(self) -> Setting:
        return Setting(
            self.bits.value, self.way.value, self.group.value, self.residual.value, self.sink.value
        )

    def _draw(self, draw: Callable[[Scene, Setting], str]) -> Callable[..., str]:
        return lambda *_: draw(self.scene, self.setting)

    def _hear(self) -> None:
        self.heard.html.value = card(
            inline("The model runs with this setting; the controls wait until it is done.")
        )
        try:
            self.scene.hear(self.setting)
        finally:
            self.heard.refresh()
