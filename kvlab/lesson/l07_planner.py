"""The planner of lesson 07: a model, a text, a batch, bits, a store and a device; what fits?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipywidgets import Dropdown, HBox, Layout, SelectionSlider

from kvlab.measure.plan import Plan, plan

from .style import BACKGROUND, BLUE, GRID, INK, QUIET, RUST, Drawing, drawing, styled
from .tables import card
from .widgets import Exhibit, live

GB = 10**9
MODELS = (
    "smollm2-135m", "gemma3-270m", "gemma-2b", "llama2-7b", "mistral-7b", "llama3-8b", "qwen3-8b",
    "gemma3-27b", "llama3-70b", "deepseek-v3",
)  # fmt: skip
TOKENS = tuple(2**n for n in range(8, 21))
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CACHE_BITS = {"16 bits": 16.0, "8 bits and scales": 8 + 16 / 128, "4 bits and scales": 4.5}
WEIGHT_BITS = {"16 bits": 16.0, "8 bits": 8.0, "4 bits and scales": 4.5}
DEVICES = {f"{n} GB": n * GB for n in (8, 16, 24, 48, 80, 141, 640, 1128)}
STORES = {"keeps all tokens": "dynamic", "keeps windows": "hybrid"}


@dataclass(frozen=True)
class Choice:
    """One setting of the planner."""

    model: str = "llama2-7b"
    tokens: int = 4096
    batch: int = 8
    bits: float = 16.0
    weight_bits: float = 16.0
    store: str = "dynamic"
    device: int = 24 * GB

    @property
    def plan(self) -> Plan:
        """Its bytes."""
        return plan(
            self.model,
            self.tokens,
            self.batch,
            self.bits,
            store=self.store,
            weight_bits=self.weight_bits,
        )


def parts(choice: Choice) -> dict[str, float]:
    """Weights, cache and what is left over, in GB; the last is negative where it does not fit."""
    found = choice.plan
    left = choice.device - found.total_bytes
    return {"weights": found.weight_bytes / GB, "cache": found.allocated_bytes / GB, "left": left / GB}


def shown(choice: Choice) -> str:
    """The bar and its numbers as HTML."""
    found, bar = choice.plan, parts(choice)
    device = choice.device / GB
    whole = max(device, bar["weights"] + bar["cache"])
    pieces = "".join(
        f'<div style="width:{100 * bar[name] / whole:.2f}%;background:{colour};height:26px"></div>'
        for name, colour in (("weights", BLUE), ("cache", RUST))
    )
    edge = f'<div style="position:absolute;left:{100 * device / whole:.2f}%;top:-6px;height:38px;'
    edge += f'border-left:3px solid {INK};margin-left:-3px"></div>'
    box = f'<div style="position:relative;background:{GRID};margin:12px 0 10px;max-width:640px">'
    box += f'<div style="display:flex">{pieces}</div>{edge}</div>'
    key = f'<b style="color:{BLUE}">■</b> weights {bar["weights"]:,.2f} GB &nbsp; '
    key += f'<b style="color:{RUST}">■</b> cache {bar["cache"]:,.2f} GB &nbsp; '
    key += f'<b style="color:{INK}">|</b> device {device:,.0f} GB'
    return card(f"<div>{key}</div>{box}<div>{'<br>'.join(_lines(choice, found))}</div>", _colour(bar))


def _colour(bar: dict[str, float]) -> str:
    return BLUE if bar["left"] >= 0 else RUST


def _lines(choice: Choice, found: Plan) -> list[str]:
    left = choice.device - found.total_bytes
    fits = f"<b>Fits</b>, {left / GB:,.2f} GB left" if left >= 0 else f"<b>{-left / GB:,.2f} GB too much</b>"
    most, many = found.tokens_that_fit(choice.device), found.sequences_that_fit(choice.device)
    longest = "any number of tokens" if most is None else f"{most:,} tokens"
    holds = f"The device holds {_sequences(choice.batch)} of {longest}, or {_sequences(many)} of "
    holds += f"{choice.tokens:,} tokens (before activations)."
    if found.weight_bytes > choice.device:
        holds = "The device does not even hold the weights."
    step = found.step
    per = (step.weights + step.cache_read) / choice.batch / GB
    share = step.cache_read / (step.weights + step.cache_read)
    lines = [
        f"{fits}. One more token of one sequence: {found.bytes_per_token:,} bytes.",
        holds,
        f"A step reads {per:,.2f} GB for each token it makes, {share:.0%} of it cache.",
    ]
    if choice.tokens > found.model.longest:
        lines.append(f"{choice.model} was made for {found.model.longest:,} tokens.")
    return lines


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


@styled
def planner_figure(choices: dict[str, Choice]) -> Drawing:
    """Stacked bars of weights and cache against the device, for places where no widget runs."""
    bars = {name: parts(choice) for name, choice in choices.items()}
    device = max(choice.device for choice in choices.values()) / GB
    alt = "; ".join(
        f"{name}: weights {b['weights']:.1f} GB, cache {b['cache']:.1f} GB" for name, b in bars.items()
    )
    figure, (ax,) = drawing(7.2, 0.9 + 0.42 * len(bars), alt=f"{alt}; device {device:.0f} GB")
    for y, bar in enumerate(bars.values()):
        ax.barh(y, bar["weights"], 0.6, color=BLUE)
        ax.barh(y, bar["cache"], 0.6, left=bar["weights"], color=RUST)
        end = bar["weights"] + bar["cache"]
        text = f"{bar['weights']:.1f} + {bar['cache']:.1f}"
        behind = {"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1.5}
        note: dict[str, Any] = {"textcoords": "offset points", "va": "center", "bbox": behind}
        ax.annotate(text, (end, y), (6, 0), **note)
    ax.axvline(device, color=INK, linewidth=2, zorder=0.5)
    words = f"line: a device of {device:.0f} GB"
    ax.set_title(words, loc="right", fontsize=8.5, fontweight="normal", color=QUIET)
    ax.set_yticks(range(len(bars)), list(bars))
    ax.invert_yaxis()
    ax.margins(x=0.16)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("weights (blue) + cache (rust), GB")
    return figure


class Planner(Exhibit):
    """Controls by name in `.controls`; `.view.html.value` is what they show."""

    def __init__(self, start: Choice) -> None:
        wide = Layout(width="21em")
        self.controls = {
            "model": Dropdown(description="model", options=MODELS, value=start.model),
            "tokens": SelectionSlider(
                description="tokens", options=[(f"{n:,}", n) for n in TOKENS], value=start.tokens, layout=wide
            ),
            "batch": SelectionSlider(description="batch", options=BATCHES, value=start.batch, layout=wide),
            "bits": Dropdown(description="cache", options=CACHE_BITS, value=start.bits),
            "weight_bits": Dropdown(description="weights", options=WEIGHT_BITS, value=start.weight_bits),
            "store": Dropdown(description="store", options=STORES, value=start.store),
            "device": Dropdown(description="device", options=DEVICES, value=start.device),
        }
        names = list(self.controls)
        self.view = live(
            lambda *values: shown(Choice(**dict(zip(names, values, strict=True)))), *self.controls.values()
        )
        rows = [names[:1] + names[6:], names[1:3], names[3:6]]
        boxes = [
            HBox([self.controls[name] for name in row], layout=Layout(flex_flow="row wrap")) for row in rows
        ]
        beside = {
            f"{start.batch} × {start.tokens:,} tokens": start,
            "8-bit cache": _with(start, bits=8 + 16 / 128),
            "8 KV heads": _with(start, model="llama3-8b"),
            "both": _with(start, model="llama3-8b", bits=8 + 16 / 128),
        }
        super().__init__(
            [*boxes, self.view],
            title="Planner: what fits on a device",
            picture=lambda: planner_figure(beside),
        )

    @property
    def choice(self) -> Choice:
        """What is set now."""
        return Choice(**{name: control.value for name, control in self.controls.items()})


def _with(choice: Choice, **changes: object) -> Choice:
    return Choice(**{**vars(choice), **changes})  # type: ignore[arg-type]


def planner(start: Choice | None = None) -> Planner:
    """The widget; Llama-2-7B, eight sequences of 4,096 tokens on 24 GB, unless told otherwise."""
    return Planner(start or Choice())
