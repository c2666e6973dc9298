"""What the doctor says: findings with evidence and a fix, what passed, and what could not be probed."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["bug", "unknown", "lossy", "rounding"]


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    name: a misuse of the gallery, "a | b" where no outside probe can tell a from b, or "unknown".
    kind: "bug" and "unknown" make a report not ok; "lossy" (meant so) and "rounding" do not.
    """

    name: str
    evidence: str
    fix: str
    kind: Kind = "bug"
    token: int | None = None  # the first wrong one, counted from 0 in the text of that probe
    layer: int | None = None  # the first one whose output differs, counted from 0
    probe: str = ""
    distance: float | None = None  # max |Δlogit|

    @property
    def names(self) -> tuple[str, ...]:
        """The misuses that it may be: one, or the members of a class."""
        return tuple(self.name.split(" | "))

    @property
    def place(self) -> str:
        parts = [f"token {self.token}"] if self.token is not None else []
        parts += [f"layer {self.layer}"] if self.layer is not None else []
        return "first wrong: " + ", ".join(parts) if parts else ""


@dataclass
class Report:
    """The result of `kvlab.doctor.check`; prints as text, and as a table in a notebook."""

    subject: str
    findings: list[Finding] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)  # probe: what was compared
    not_probed: dict[str, str] = field(default_factory=dict)  # probe: why not
    longest: int | None = (
        None  # tokens of the longest text that was compared; nothing is known of longer ones
    )

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: rounding, and losses that are meant, are fine."""
        return not any(f.kind in ("bug", "unknown") for f in self.findings)

    @property
    def names(self) -> set[str]:
        """Everything that the findings name; members of a class each by itself."""
        return {name for finding in self.findings for name in finding.names}

    @property
    def verdict(self) -> str:
        bad = [f.name for f in self.findings if f.kind in ("bug", "unknown")]
        if bad:
            return f"{self.subject}: {', '.join(dict.fromkeys(bad))}"
        also = [f.name for f in self.findings]
        return f"{self.subject}: no bug found" + (f" ({', '.join(also)})" if also else "")

    def _alike(self) -> dict[str, list[str]]:
        """What was not probed, by the reason why not."""
        reasons: dict[str, list[str]] = {}
        for probe, why in self.not_probed.items():
            reasons.setdefault(why, []).append(probe)
        return reasons

    def __str__(self) -> str:
        lines = [self.verdict]
        for f in self.findings:
            lines += ["", f"  {_MARK[f.kind]} {f.name}" + (f"   ({f.place})" if f.place else "")]
            lines += _wrapped("what", f.evidence) + _wrapped("fix", f.fix)
        if self.passed:
            lines += ["", *_wrapped("passed", ", ".join(self.passed), indent="  ")]
        for why, probes in self._alike().items():
            lines += _wrapped("not probed", f"{', '.join(probes)}: {why}", indent="  ")
        if self.longest:
            lines += _wrapped("not probed", f"texts of more than {self.longest} tokens", indent="  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            _row(_MARK[f.kind], f"<b>{html.escape(f.name)}</b>", _what(f), _COLOUR[f.kind])
            for f in self.findings
        ]
        rows += [_row("✓", html.escape(p), html.escape(what), "#1B7F4B") for p, what in self.passed.items()]
        rows += [
            _row("–", html.escape(", ".join(probes)), f"not probed: {html.escape(why)}", "#6B6B6B")
            for why, probes in self._alike().items()
        ]
        edge = "#1B7F4B" if self.ok else "#B3261E"
        return (
            f'<div style="background:#FFFFFF;color:#1A1A1A;border:1px solid #D0D0D0;border-left:5px solid '
            f'{edge};padding:8px 12px;max-width:60em"><div style="font-weight:bold;padding-bottom:4px">'
            f'{html.escape(self.verdict)}</div><table style="background:#FFFFFF;color:#1A1A1A;'
            f'border-collapse:collapse;font-size:13px">{"".join(rows)}</table></div>'
        )


_MARK = {"bug": "✗", "unknown": "?", "lossy": "~", "rounding": "≈"}
_COLOUR = {"bug": "#B3261E", "unknown": "#B3261E", "lossy": "#8A5A00", "rounding": "#8A5A00"}


def _wrapped(label: str, text: str, indent: str = "      ") -> list[str]:
    head = f"{indent}{label}: "
    return textwrap.wrap(head + text, 100, subsequent_indent=" " * len(head)) or [head]


def _what(f: Finding) -> str:
    place = f'<div style="color:#555555">{html.escape(f.place)}</div>' if f.place else ""
    return f"{html.escape(f.evidence)}{place}<div><i>Fix:</i> {html.escape(f.fix)}</div>"


def _row(mark: str, name: str, what: str, colour: str) -> str:
    cell = (
        "background:#FFFFFF;padding:4px 8px;text-align:left;vertical-align:top;border-top:1px solid #E4E4E4"
    )
    return (
        f'<tr><td style="{cell};color:{colour};font-weight:bold">{mark}</td>'
        f'<td style="{cell};white-space:nowrap;color:#1A1A1A">{name}</td>'
        f'<td style="{cell};color:#1A1A1A">{what}</td></tr>'
    )
