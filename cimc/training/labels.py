"""Labels as a training step takes them, and whether they suit its loss."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError
from cimc.ir.program import Program, ValueSpec
from cimc.training.scores import ending

Array = NDArray[Any]


@dataclass(frozen=True)
class Labels:
    """What a loss takes beside the model's output."""

    spec: ValueSpec
    classes: int | None
    """Where labels are class numbers and their number is known."""
    shares: bool
    """Whether targets lie in 0...1."""

    @classmethod
    def of(cls, program: Program, training: Program, loss: str) -> Labels | None:
        """The labels of an inference program and its training step; None where the model computes its loss."""
        spec = next((spec for spec in training.inputs if spec.name == training.labels), None)
        if spec is None:
            return None
        kind, _, chosen = loss.partition(":")
        outputs = {output.name: output for output in program.outputs}
        scores = outputs.get(chosen, program.outputs[0])
        classes = None
        if kind == "softmax_cross_entropy" and scores.shape and len(scores.shape) > 1:
            classes = scores.shape[ending(program, scores.name)[1]]
        return cls(spec, classes if isinstance(classes, int) else None, kind == "binary_cross_entropy")

    def ready(self, y: Any, count: int, where: str) -> Array:
        """The labels of ``count`` images in the dtype of the loss: class numbers in int64, targets in the output's.

        Args:
            y: An array, or what becomes one.
            count: Images that they belong to.
            where: What errors call them.

        Raises:
            DataError: They do not suit the loss.
        """
        if y is None:
            raise DataError(
                "the loss needs labels, and there are none", where=where, fix="give y, or a model that computes its loss"
            )
        labels = self._cast(np.asanyarray(y), where)
        if labels.ndim == 0 or len(labels) != count:
            raise DataError(f"{counted(labels)} for {count} images", where=where)
        self._fit(labels, where)
        if self.classes is not None and labels.size:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise DataError(
                    f"labels from {low} to {high}, the model has {self.classes} classes", where=where, fix="number them from 0"
                )
        return labels

    def _cast(self, labels: Array, where: str) -> Array:
        if self.spec.dtype == "int64":
            if labels.dtype.kind not in "iu":
                fix = "give whole numbers; of one-hot labels, y.argmax(1)"
                raise DataError(f"class numbers are {labels.dtype}", where=where, fix=fix)
            return labels.astype(np.int64)
        if labels.dtype.kind not in "iufb":
            raise DataError(f"is {labels.dtype}, the loss takes {self.spec.dtype}", where=where)
        labels = labels.astype(self.spec.dtype)
        if not np.isfinite(labels).all():
            raise DataError("holds NaN or Inf", where=where)
        if self.shares and labels.size and not (labels.min() >= 0 and labels.max() <= 1):
            found = f"targets from {labels.min():g} to {labels.max():g}"
            raise DataError(f"{found}, binary cross-entropy takes 0 to 1", where=where)
        return labels

    def _fit(self, labels: Array, where: str) -> None:
        """Refuse labels of another shape, and say what to make of them."""
        shape, count = self.spec.shape, len(labels)
        if shape is None or (
            labels.ndim == len(shape)
            and all(n == 0 or not isinstance(want, int) or labels.shape[n] == want for n, want in enumerate(shape))
        ):
            return
        wanted = ", ".join("?" if d is None else str(d) for d in shape)
        sizes = [n for n in shape[1:] if isinstance(n, int)]
        if self.spec.dtype == "int64":
            hint = "give each image's class number; of one-hot labels, y.argmax(1)"
        elif len(sizes) == len(shape) - 1 and labels.size == count * prod(sizes):
            hint = f"y.reshape({', '.join(map(str, (-1, *sizes)))})"
        else:
            hint = "give targets of the output's shape"
        raise DataError(f"shape {list(labels.shape)}, the loss takes [{wanted}]", where=where, fix=hint)


def counted(labels: Array) -> str:
    """How many there are, in words."""
    return "a single label" if labels.ndim == 0 else f"{len(labels)} labels"
