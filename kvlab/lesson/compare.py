"""Compare a learner's result with the expected one and say where they part, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def difference(
    expected: Any, actual: Any, rtol: float = 1e-4, atol: float = 1e-5, where: str = ""
) -> str | None:
    """The first difference as a clause, or None if equal.

    Tensors, arrays, numbers, texts, booleans, None and nested lists, tuples and dicts are compared; tensors
    and arrays by shape, kind (boolean or number) and value. Floats are equal within rtol and atol, whole
    numbers exactly; NaN equals NaN.
    """
    at = f"{where} " if where else ""
    if _is_array(expected):
        return _arrays(expected, actual, rtol, atol, at)
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        same = type(actual) is type(expected) and actual == expected
        return None if same else f"{at}expected {show(expected)}, got {show(actual)}"
    if isinstance(expected, (int, float)):
        return _numbers(expected, actual, rtol, atol, at)
    if isinstance(expected, Mapping):
        return _mappings(expected, actual, rtol, atol, where)
    if isinstance(expected, Sequence):
        return _sequences(expected, actual, rtol, atol, where)
    raise TypeError(f"an exercise can't compare results of type {type(expected).__name__}")


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def _numbers(expected: float, actual: Any, rtol: float, atol: float, at: str) -> str | None:
    if _is_array(actual) and math.prod(actual.shape) == 1:
        actual = actual.item()
    if isinstance(actual, bool) or not isinstance(actual, (int, float, np.number)):
        return f"{at}expected the number {show(expected)}, got {show(actual)}"
    if isinstance(expected, int):  # a count: right to the last one
        rtol, atol = 0.0, 1e-6
    close = math.isclose(expected, actual, rel_tol=rtol, abs_tol=atol)
    both_nan = math.isnan(expected) and math.isnan(actual)
    return None if close or both_nan else f"{at}expected {show(expected)}, got {show(actual)}"


def _arrays(expected: Any, actual: Any, rtol: float, atol: float, at: str) -> str | None:
    if not _is_array(actual):
        return f"{at}expected a tensor of shape {shape(expected)}, got {show(actual)}"
    if shape(expected) != shape(actual):
        return f"{at}expected shape {shape(expected)}, got shape {shape(actual)}"
    want, have = torch.as_tensor(expected).cpu(), torch.as_tensor(actual).detach().cpu()
    if (want.dtype == torch.bool) != (have.dtype == torch.bool):
        kinds = {True: "True and False", False: "numbers"}
        is_bool = want.dtype == torch.bool
        return f"{at}expected {kinds[is_bool]}, got {kinds[not is_bool]} ({have.dtype})"
    if want.is_complex() or have.is_complex():
        want, have = _real(want), _real(have)
    if not want.is_floating_point():
        rtol, atol = 0.0, 1e-6
    same = torch.isclose(want.double(), have.double(), rtol=rtol, atol=atol, equal_nan=True)
    if bool(same.all()):
        return None
    index = tuple((~same).nonzero()[0].tolist())
    values = f"expected {show(want[index].item())}, got {show(have[index].item())}"
    count = f"{int((~same).sum())} of {same.numel()} values differ" if same.numel() > 1 else "it differs"
    nan = "; NaN comes from 0/0 or from a row in which everything is masked" if have[index].isnan() else ""
    return f"{at}at index {list(index)} {values} ({count}{nan})"


def _real(values: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(values.to(torch.complex128))


def _mappings(expected: Mapping, actual: Any, rtol: float, atol: float, where: str) -> str | None:
    at = f"{where} " if where else ""
    if not isinstance(actual, Mapping) or set(actual) != set(expected):
        have = sorted(map(str, actual)) if isinstance(actual, Mapping) else show(actual)
        return f"{at}expected a dict with the keys {sorted(map(str, expected))}, got {have}"
    found = (difference(expected[k], actual[k], rtol, atol, f"{where}[{k!r}]") for k in expected)
    return next((f for f in found if f), None)


def _sequences(expected: Sequence, actual: Any, rtol: float, atol: float, where: str) -> str | None:
    at = f"{where} " if where else ""
    if _is_array(actual) and actual.ndim == 1:
        actual = actual.tolist()
    if not isinstance(actual, Sequence) or isinstance(actual, str):
        return f"{at}expected {len(expected)} values, got {show(actual)}"
    pairs = zip(expected, actual, strict=False)
    found = (difference(e, a, rtol, atol, f"{where}[{i}]") for i, (e, a) in enumerate(pairs))
    first = next((f for f in found if f), None)
    if first is None and len(expected) != len(actual):
        return f"{at}expected {len(expected)} values, got {len(actual)}"
    return first


def shape(value: Any) -> list[int]:
    """An array's shape as a list, the way lessons write it."""
    return list(value.shape)


def show(value: Any) -> str:
    """A value in a few characters: numbers to four digits, arrays by kind and shape."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {shape(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {shape(value)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
