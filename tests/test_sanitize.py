"""The file that strict nbval sanitizes with: no rule is lost, each replaces what it is for and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

TEXT = (Path(__file__).parent / "sanitize.cfg").read_text(encoding="utf-8")


def sanitize(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns(TEXT):
        text = re.sub(pattern, replacement, text)
    return text


def test_nbval_reads_every_rule() -> None:
    sections = re.findall(r"^\[.*\]$", TEXT, re.MULTILINE)
    patterns = get_sanitize_patterns(TEXT)
    assert len(patterns) == len(sections) == len(re.findall("^regex:", TEXT, re.MULTILINE)) > 0
    assert all(replacement for _, replacement in patterns)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<Cache object at 0x7f3a10c2b4d0>", "<Cache object at 0x55d2a0>"),
        ("/var/x/ipykernel_41/123.py:3: UserWarning", "C:\\Temp\\ipykernel_7\\99.py:3: UserWarning"),
        ("tensor([1.5], device='cuda:0')", "tensor([1.5])"),
        (
            "loading: 100%|████| 10/10 [00:03<00:00,  3.1it/s]",
            "loading:  40%|██  | 4/10 [00:01<00:02, 2.9it/s]",
        ),
    ],
)
def test_what_differs_between_runs_is_made_equal(one: str, other: str) -> None:
    assert one != other
    assert sanitize(one) == sanitize(other)


@pytest.mark.parametrize(
    "text",
    ["tokens 41", "0xff", "int4: 0.25 of 16 bits", "[1, 9, 5, 64]", "50% | 3/4", "18,843,648 bytes", "2.51×"],
)
def test_results_are_left_alone(text: str) -> None:
    assert sanitize(text) == text
