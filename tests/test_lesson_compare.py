"""Where two results part, in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvlab.lesson.compare import difference

NAN = float("nan")


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0 + 1e-6, NAN])),
        (torch.tensor([float("-inf"), 0]), np.array([-np.inf, 0.0])),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0])),
        (torch.tensor(True), torch.tensor(True)),
        (torch.ones(2), torch.ones(2, requires_grad=True)),
        (torch.tensor([1 + 2j]), torch.tensor([1 + 2j])),
        (3, 3.0),
        (0.5, torch.tensor([0.5])),
        (0.5, np.float32(0.5)),
        ([1, 2], (1, 2)),
        ([1, 2], torch.tensor([1, 2])),
        ({"a": [torch.ones(1)]}, {"a": [torch.ones(1)]}),
        ("so", "so"),
        (None, None),
        (True, True),
        (NAN, NAN),
    ],
)
def test_equal(expected: object, actual: object) -> None:
    assert difference(expected, actual) is None


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), "expected shape [2, 3], got shape [3, 2]"),
        (torch.eye(2), torch.ones(2, 2), "at index [0, 1] expected 0, got 1 (2 of 4 values differ)"),
        (torch.eye(2) > 0, torch.eye(2), "expected True and False, got numbers (torch.float32)"),
        (torch.ones(1), torch.tensor([NAN]), "NaN comes from"),
        (torch.tensor(2.0), torch.tensor(3.0), "at index [] expected 2, got 3 (it differs)"),
        ([1, [2, 3]], [1, [2, 4]], "[1][1] expected 3, got 4"),
        ([1, 2, 3], [1, 2], "expected 3 values, got 2"),
        ([1, 2], [5, 2, 3], "[0] expected 1, got 5"),
        ([1], 7, "expected 1 values, got 7"),
        ({"k": 1}, {"v": 1}, "expected a dict with the keys ['k'], got ['v']"),
        ({"k": torch.ones(1)}, {"k": None}, "['k'] expected a tensor of shape [1], got None"),
        (True, 1, "expected True, got 1"),
        (1, True, "expected the number 1, got True"),
        ("a", "b", "expected 'a', got 'b'"),
        (1000, 1001, "expected 1000, got 1001"),
        (0.25, "x" * 99, "expected the number 0.25, got 'xxx"),
    ],
)
def test_different(expected: object, actual: object, words: str) -> None:
    assert words in (difference(expected, actual) or "")


def test_counts_must_be_equal_to_the_last_one() -> None:
    assert difference(10_000_000, 10_000_001) is not None
    assert difference(torch.tensor([10_000_000]), torch.tensor([10_000_001])) is not None


def test_what_can_not_be_compared_is_an_authors_error() -> None:
    with pytest.raises(TypeError, match="object"):
        difference(object(), 1)
