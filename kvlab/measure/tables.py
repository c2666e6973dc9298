"""Plain aligned text: the table that a bench prints last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned text, numbers to the right; `columns` picks and orders, None takes all keys."""
    if not rows:
        return "(no rows)"
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    numeric = [all(_is_number(row.get(name)) for row in rows) for name in names]

    def line(parts: Sequence[str]) -> str:
        padded = (p.rjust(w) if n else p.ljust(w) for p, w, n in zip(parts, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *map(line, cells)])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def gigabytes(count: float | None) -> float | None:
    """For tables: bytes to GB (10⁹ bytes); unknown stays unknown."""
    return None if count is None else count / 1e9
