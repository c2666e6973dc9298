"""What a lesson says in words and what its cells have printed, and whether the quality run holds it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kvlab.lesson import chart
from kvlab.lesson.recorded import Recorded, recorded

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def cells(lesson: str) -> list[dict[str, Any]]:
    """All cells of the lesson with this number."""
    (path,) = NOTEBOOKS.glob(f"{lesson}_*.ipynb")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def prose(lesson: str) -> str:
    """Its Markdown in one line."""
    return " ".join(
        " ".join("".join(c["source"]).split()) for c in cells(lesson) if c["cell_type"] == "markdown"
    )


def printed(lesson: str) -> str:
    """What its cells have printed, in one line."""
    outs = [out for c in cells(lesson) for out in c.get("outputs", []) if out["output_type"] == "stream"]
    return " ".join("".join("".join(out["text"]) for out in outs).split())


def quality_run() -> Recorded:
    """The recorded quality run."""
    run = recorded("quality")
    assert isinstance(run, Recorded)
    return run


def times_said(worse: str, better: str, said: str, beyond: bool, model: str = chart.SMOL) -> None:
    """`said` has a ratio of KL and its interval as "2.9 times … (1.6 … 5.4)", in as many digits as it likes.

    beyond: whether the sentence takes the difference for more than chance: then the interval must be above
    1, otherwise it must hold 1.
    """
    run = quality_run()
    assert len(chart.row(run, worse, model)["kl"]) == 5, "five texts"
    times = chart.more(run, worse, better, model)
    numbers = re.findall(r"\d+(?:\.\d+)?", said)
    assert len(numbers) == 3, said
    digits = [len(number.partition(".")[2]) for number in numbers]
    assert [float(n) for n in numbers] == [round(x, d) for x, d in zip(times, digits, strict=True)], times
    assert (times.low > 1) is beyond and (beyond or times.high > 1), times
