"""The figures of lesson 09; each takes data and returns a `Drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from .figures import Line, bars, curves
from .l09 import PATHS, step_times
from .recorded import NotMeasured, Recorded
from .style import COLOURS, MEASURED, Drawing, direct_labels, drawing, styled


@styled
def compilations_figure(counts: Mapping[str, Sequence[int]]) -> Drawing:
    """How often each way has been compiled, against tokens."""
    words = ", ".join(f"{name}: {n[-1]}" for name, n in counts.items())
    figure, (ax,) = drawing(
        6.4, 3.2, alt=f"compilations after {len(next(iter(counts.values())))} tokens; {words}"
    )
    ends = []
    for (name, n), colour in zip(counts.items(), COLOURS, strict=False):
        ax.plot(range(1, len(n) + 1), n, color=colour, drawstyle="steps-post", **MEASURED)
        ends.append((float(n[-1]), name, colour))
    ax.set_ylim(0, max(max(n) for n in counts.values()) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("tokens so far")
    ax.set_ylabel("compilations so far")
    direct_labels(ax, ends, gap=13)
    return figure


def read_figure(capacities: Sequence[int], static: Sequence[int], dynamic: int, tokens: int) -> Drawing:
    """Bytes of keys and values that one step reads, against the capacity; dynamic: what is stored."""
    lines = [
        Line("static", [n / 1e6 for n in static]),
        Line("growing", [dynamic / 1e6] * len(capacities)),
    ]
    return curves(
        capacities, lines, x_label=f"capacity, with {tokens} tokens in the cache",
        y_label="read by one step (MB)", log_x=True, log_y=True,
        alt="a static cache is read to its capacity, a growing one to its last token",
    )  # fmt: skip


def times_figure(run: Recorded | NotMeasured, context: int) -> Drawing | NotMeasured:
    """Milliseconds of one step, each way, and what reading all bytes once would take (dashed)."""
    if not isinstance(run, Recorded):
        return run
    times = step_times(run, context)
    bound = run.select(context=context, batch=1, path="compiled")[0]["bound_seconds"]
    return bars(
        [PATHS[path] for path in times],
        [1e3 * s for s in times.values()],
        label=f"one decode step after {context:,} tokens (ms)",
        theory=[1e3 * bound] * len(times),
        highlight=[PATHS["compiled"]],
        alt=f"time of a decode step after {context} tokens, for each way, beside the bound by memory",
    )
