"""What a classical network predicts: one of several classes, or a number. Stored with the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmkit.data.columns import as_number, is_missing
from llmkit.errors import DataError

MAX_NUMERIC_CLASSES = 20
"""Whole numbers with no more than this many different values are read as classes; data.task says otherwise."""


@dataclass(frozen=True)
class ClassTarget:
    """Classes by name; class k is `names[k]`."""

    names: list[str]

    def encode(self, values: Sequence[Any]) -> Tensor:
        """(N,) int64."""
        index = {name: k for k, name in enumerate(self.names)}
        return torch.tensor([index[class_name(value)] for value in values], dtype=torch.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "classes", **asdict(self)}


@dataclass(frozen=True)
class NumberTarget:
    """Numbers y, seen by the network as (y - base) / scale, so that a prediction of 0 is the reference to beat.

    `mean`: the base is the training mean. `last`: the base is the last value the network has seen (the naive forecast),
    so that a network which has learnt nothing forecasts naively, and a trend carries it beyond the values of training.
    There is a mean and a scale for each of `names`, the numbers that are predicted.
    """

    base: Literal["mean", "last"]
    names: list[str]
    means: list[float]
    scales: list[float]

    @property
    def mean(self) -> float:
        """The training mean of the first number."""
        return self.means[0]

    @property
    def scale(self) -> float:
        """One of the network's units in the first number's own."""
        return self.scales[0]

    def encode(self, values: Sequence[Any] | Tensor, last: Tensor | None = None) -> Tensor:
        """(N,) or (N, K) -> (N, K) float32. `last`: the last values seen, of the same shape, where the base is one."""
        numbers = torch.as_tensor([as_number(v) for v in values] if not isinstance(values, Tensor) else values)
        numbers = numbers.double().view(len(numbers), -1)
        return ((numbers - self.bases(last)) / torch.tensor(self.scales, dtype=torch.float64)).float()

    def decode(self, outputs: Tensor, last: Tensor | None = None) -> Tensor:
        """What a network answers (N, K) as numbers in their own units, float64."""
        return outputs.double() * torch.tensor(self.scales, dtype=torch.float64) + self.bases(last)

    def bases(self, last: Tensor | None) -> Tensor:
        """What the network's numbers are differences from: (K,) or (N, K)."""
        if self.base == "last" and last is not None:
            return last.double().view(len(last), -1)
        return torch.tensor(self.means, dtype=torch.float64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "number", **asdict(self)}


@dataclass(frozen=True)
class SymbolTarget:
    """The next symbol of a text: ids below `num_symbols`, as the encoder gives them."""

    num_symbols: int

    def to_json(self) -> dict[str, Any]:
        return {"kind": "symbol", **asdict(self)}


Target = ClassTarget | NumberTarget | SymbolTarget


def read_target(stored: dict[str, Any]) -> Target:
    """A target from what its `to_json` gave."""
    values = dict(stored)
    kinds: dict[str, type[Target]] = {"classes": ClassTarget, "number": NumberTarget, "symbol": SymbolTarget}
    return kinds[values.pop("kind")](**values)


def class_name(value: Any) -> str:
    """A class as text: 3, 3.0 and "3" are one class, true and "true" another."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def recognise_task(values: Sequence[Any]) -> Literal["classification", "regression"]:
    """Classes unless the values are numbers that are not whole, or more different ones than classes would be."""
    values = [value for value in values if not is_missing(value)]
    numbers = [as_number(value) for value in values]
    if any(number is None for number in numbers) or any(isinstance(value, bool) for value in values):
        return "classification"
    if any(not float(number).is_integer() for number in numbers if number is not None):
        return "regression"
    return "classification" if len(set(numbers)) <= MAX_NUMERIC_CLASSES else "regression"


def fit_classes(values: Sequence[Any], *, where: str) -> ClassTarget:
    """The classes there are, in the order of their numbers or names."""
    names = {class_name(value) for value in values}
    if len(names) < 2:
        raise DataError(
            f"every row has the same target {next(iter(names), None)!r}",
            where=where,
            fix="name the column to predict with --set data.target=COLUMN",
        )
    if len(names) > max(20, len(values) // 2):
        raise DataError(
            f"the target has {len(names)} different values in {len(values)} rows, which are no classes",
            where=where,
            fix="name another column with --set data.target=COLUMN, or set data.task=regression",
        )
    return ClassTarget(sorted(names, key=natural_order))


def natural_order(name: str) -> tuple[bool, float, str]:
    """Numbers by value before names by alphabet."""
    number = as_number(name)
    return (number is None, 0.0 if number is None else number, name)


def fit_number(values: Sequence[Any], training: Sequence[Any], *, name: str, where: str) -> NumberTarget:
    """Mean and spread of the training rows' numbers; every value of all rows must be a number."""
    wrong = next((value for value in values if not is_missing(value) and as_number(value) is None), None)
    if wrong is not None:
        raise DataError(
            f"the target holds {wrong!r}, which is no number",
            where=where,
            fix="set data.task=classification, or mend the column",
        )
    numbers = [float(n) for n in map(as_number, training) if n is not None]
    mean = math.fsum(numbers) / len(numbers)
    spread = math.sqrt(math.fsum((n - mean) ** 2 for n in numbers) / len(numbers))
    if spread == 0.0:
        raise DataError(
            "every training row has the same target",
            where=where,
            fix="name another column with --set data.target=COLUMN",
        )
    return NumberTarget("mean", [name], [mean], [spread])
