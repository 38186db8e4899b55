"""Figures of a model's first output beside labels: accuracy, top 5, confusion, by class; squared error and R² of a regression.

A meter takes batches one by one and holds sums, so that the figures do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError, DataError

Array = NDArray[Any]

OF_CLASSES = ("accuracy", "top5", "confusion", "per-class")
OF_NUMBERS = ("mse", "mae", "r2")
#: Those that lie from 0 to 1.
SHARES = ("accuracy", "top5")
#: Those that are one number a chip, and which of them are better where they are lower.
SCALARS = (*SHARES, *OF_NUMBERS)
LOWER_IS_BETTER = ("mse", "mae")

#: Classes of a confusion table at most: 4 million counts.
_MOST_CLASSES = 2048


class Meter:
    """Sums of some metrics.

    Args:
        metrics: Names, of `OF_CLASSES` or of `OF_NUMBERS`.

    Raises:
        CimcError: There is no such metric, or some are of classes and some of numbers.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        known = (*OF_CLASSES, *OF_NUMBERS)
        if unknown := [name for name in metrics if name not in known]:
            raise CimcError(f"no metric is called {unknown[0]}", where="metric", fix=f"one of {', '.join(known)}")
        self.of_classes = metrics[0] in OF_CLASSES if metrics else True
        if any((name in OF_CLASSES) != self.of_classes for name in metrics):
            what = f"{', '.join(metrics)} are of classes and of numbers"
            raise CimcError(what, where="metric", fix=f"some of {', '.join(OF_CLASSES)}, or some of {', '.join(OF_NUMBERS)}")
        self.metrics = tuple(dict.fromkeys(metrics))
        self.count = self.right = self.in_five = 0
        self._classes: tuple[Array, Array, Array] | None = None
        self._table: Array | None = None
        self._numbers: _Numbers | None = None

    def add_classes(self, scores: Array, axis: int, said: Array, labels: Array, judged: NDArray[np.bool_]) -> None:
        """Take in a batch of a classifier.

        Args:
            scores: Of the classes, along ``axis``.
            axis: Axis of the classes.
            said: Class of the highest score, of the labels' shape.
            labels: Class numbers.
            judged: Whether each label counts.

        Raises:
            DataError: There are too few classes for the five best, or too many for a table.
        """
        said, true, classes = said[judged], labels[judged], scores.shape[axis]
        if true.size and true.min() < 0:
            raise DataError(f"label {int(true.min())} is negative", where="y", fix="number the classes from 0, or ignore_index")
        self.count += true.size
        self.right += int(np.count_nonzero(said == true))
        if "top5" in self.metrics:
            if classes <= 5:
                raise DataError(f"top5 of {classes} classes is always 1", where="metric", fix="accuracy")
            rows = np.moveaxis(scores, axis, -1)[judged]
            own = np.take_along_axis(rows, true[:, None], -1)
            earlier = (rows == own) & (np.arange(classes) < true[:, None])  # of equal scores the first class is taken
            self.in_five += int(np.count_nonzero(((rows > own) | earlier).sum(-1) < 5))
        if "per-class" in self.metrics:
            found = tuple(np.bincount(values, minlength=classes) for values in (true, said, true[said == true]))
            old = self._classes
            self._classes = found if old is None else tuple(a + b for a, b in zip(old, found, strict=True))  # type: ignore[assignment]
        if "confusion" in self.metrics:
            if classes > _MOST_CLASSES:
                raise DataError(f"a table of {classes} classes is too large", where="metric", fix="per-class")
            table = np.bincount(true * classes + said, minlength=classes * classes).reshape(classes, classes)
            self._table = table if self._table is None else self._table + table

    def add_numbers(self, output: Array, targets: Array) -> None:
        """Take in a batch of a regression: ``output`` and ``targets`` of one shape.

        Raises:
            DataError: The output holds NaN or Inf.
        """
        if not np.isfinite(output).all():
            raise DataError("the model's output holds NaN or Inf", where="metric", fix="use `cimc run` to see it")
        if self._numbers is None:
            self._numbers = _Numbers(output.shape[1:])
        self.count += len(output)
        self._numbers.add(output.reshape(len(output), -1).astype(np.float64), targets.reshape(len(output), -1))

    def values(self) -> dict[str, Any]:
        """The figures by metric.

        ``accuracy`` and ``top5``: shares. ``confusion``: counts, a row for each true class, a column for each that was said.
        ``per-class``: ``count``, ``precision``, ``recall`` and ``f1`` of each class, null where nothing is divided by. ``mse``,
        ``mae``: means over all numbers of the output. ``r2``: 1 - Σ(y - ŷ)²/Σ(y - ȳ)², the mean over the output's columns; null
        where a column's targets are all equal.
        """
        return {name: self._value(name) for name in self.metrics}

    def told(self) -> str:
        """The figures that are one number, in words; empty before anything counts."""
        found = [(name, self._value(name)) for name in self.metrics if name in SCALARS] if self.count else []
        return ", ".join(f"{name} {value:.4g}" for name, value in found if value is not None)

    def _value(self, name: str) -> Any:
        if name == "accuracy":
            return self.right / max(1, self.count)
        if name == "top5":
            return self.in_five / max(1, self.count)
        if name == "confusion":
            return None if self._table is None else self._table.tolist()
        if name == "per-class":
            return [] if self._classes is None else [_of_class(*map(int, row)) for row in zip(*self._classes, strict=True)]
        return None if self._numbers is None else getattr(self._numbers, name)()


def number_of(meter: Meter) -> float:
    """The figure of a meter of one metric, of `SCALARS`.

    Raises:
        DataError: It is not defined for these labels.
    """
    (name,) = meter.metrics
    value = meter.values()[name]
    if value is None:
        raise DataError(f"{name} is not defined: all targets of a column are equal", where="y", fix="another metric: mse")
    return float(value)


def check_scalar(metric: str) -> None:
    """Refuse a metric that is not one number.

    Raises:
        CimcError: It is a table, or there is none of that name.
    """
    if metric not in SCALARS:
        raise CimcError(f"{metric} is not one number for a chip", where="metric", fix=f"one of {', '.join(SCALARS)}")


class _Numbers:
    """Sums of a regression in float64, each column about its own mean (Chan, Golub, LeVeque 1983)."""

    def __init__(self, shape: Sequence[int]) -> None:
        size = int(np.prod(shape))
        self.n, self.mean, self.about_mean = 0, np.zeros(size), np.zeros(size)
        self.squares, self.sizes = np.zeros(size), np.zeros(size)

    def add(self, output: Array, targets: Array) -> None:
        off = output - targets
        self.squares += np.square(off).sum(0)
        self.sizes += np.abs(off).sum(0)
        count, mean = len(targets), targets.mean(0)
        apart, total = mean - self.mean, self.n + count
        self.about_mean += np.square(targets - mean).sum(0) + np.square(apart) * (self.n * count / total)
        self.mean += apart * (count / total)
        self.n = total

    def mse(self) -> float:
        return float(self.squares.mean() / self.n)

    def mae(self) -> float:
        return float(self.sizes.mean() / self.n)

    def r2(self) -> float | None:
        return None if not self.about_mean.all() else float((1 - self.squares / self.about_mean).mean())


def _of_class(true: int, said: int, both: int) -> dict[str, Any]:
    return {
        "count": true,
        "precision": both / said if said else None,
        "recall": both / true if true else None,
        "f1": 2 * both / (true + said) if true + said else None,
    }


def as_targets(labels: Array, output: Array) -> Array:
    """Targets of a regression in float64, with the output's shape.

    Raises:
        DataError: Their shape differs by more than axes of length 1, or they are no finite numbers.
    """
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
        raise DataError(f"targets are {labels.dtype}, or hold NaN or Inf", where="y", fix="give finite numbers")
    plain = [[n for n in shape[1:] if n != 1] for shape in (labels.shape, output.shape)]
    if not labels.ndim or len(labels) != len(output) or plain[0] != plain[1]:
        what = f"targets are {list(labels.shape)}, the output is {list(output.shape)}"
        raise DataError(what, where="y", fix="give a target for each number of the output")
    return labels.reshape(output.shape).astype(np.float64)
