"""Labels as a training step takes them, and whether they suit its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array
from cimc.errors import DataError
from cimc.ir.classes import Classes, Shape, laid_out, shown, sums_to_one
from cimc.ir.program import Program, ValueSpec
from cimc.training.scores import ending

Array = NDArray[Any]

#: Told how the labels of a softmax cross-entropy lie, when the first come; gives the input of the training step for them.
Settle = Callable[[Classes], ValueSpec]


@dataclass
class Labels:
    """What a loss takes beside the model's output."""

    spec: ValueSpec
    shares: bool
    """Whether targets lie in 0...1."""
    logits: Shape | None = None
    """Their shape, of a softmax cross-entropy."""
    axes: tuple[int, ...] = ()
    """Along which of them classes may lie."""
    classes: Classes | None = None
    """How labels of a softmax cross-entropy lie, as far as it is known."""
    settle: Settle | None = None
    """Told how they lie."""
    before: tuple[Classes, ValueSpec] | None = None
    """What was assumed before the first labels came; None: they have not come."""

    @classmethod
    def of(cls, program: Program, training: Program, loss: str, classes: Classes, settle: Settle) -> Labels | None:
        """The labels of an inference program and its training step; None where the model computes its loss."""
        spec = next((spec for spec in training.inputs if spec.name == training.labels), None)
        if spec is None:
            return None
        kind, _, chosen = loss.partition(":")
        outputs = {output.name: output for output in program.outputs}
        scores = outputs.get(chosen, program.outputs[0])
        if kind != "softmax_cross_entropy" or scores.shape is None:
            return cls(spec, kind == "binary_cross_entropy")
        rank, (op_type, own) = len(scores.shape), ending(program, scores.name)
        axis = own if classes.axis is None and op_type in ("Softmax", "LogSoftmax") else classes.axis
        axes = tuple(range(1, rank)) if axis is None else (axis % rank,)
        return cls(spec, False, scores.shape, axes, replace(classes, axis=axes[0]), settle)

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
        given = array(y, where)
        if given.ndim == 0 or len(given) != count:
            raise DataError(f"{counted(given)} for {count} images", where=where)
        if self.before is not None:
            return self._checked(given, where)
        if self.settle is not None and self.logits is not None and self.classes is not None:
            lying = laid_out(given, self.logits, self.axes, self.classes.ignore, where)
            self.before = self.classes, self.spec
            self.classes, self.spec = lying, self.settle(lying)
        try:
            return self._checked(given, where)
        except DataError:
            self.forget()
            raise

    def forget(self) -> None:
        """Let labels lie otherwise again, as before the first ones came: these, or what came with them, were refused."""
        if self.before is not None and self.settle is not None:
            (self.classes, self.spec), self.before = self.before, None
            self.settle(self.classes)

    def _checked(self, given: Array, where: str) -> Array:
        labels = self._cast(given, where)
        self._fit(labels, where)
        if self.classes is not None and labels.size:
            self._check_classes(labels, self.classes, where)
        return labels

    def _check_classes(self, labels: Array, classes: Classes, where: str) -> None:
        axis = classes.axis
        if axis is None:
            raise DataError("the axis of the classes is not known", where=where, fix="class_axis (--class-axis) says it")
        if classes.soft:
            if labels.min() < 0 or not sums_to_one(labels, axis):
                fix = "divide them by their sum, or give class numbers"
                raise DataError(f"are no probabilities: below 0, or their sum along axis {axis} is not 1", where=where, fix=fix)
            return
        number = None if self.logits is None else self.logits[axis]
        judged = labels if classes.ignore is None else labels[labels != classes.ignore]
        low, high = int(judged.min(initial=0)), int(judged.max(initial=0))
        if low < 0 or (isinstance(number, int) and high >= number):
            has = f", the model has {number} classes" if isinstance(number, int) else ""
            fix = f"number them from 0; ignore_index={low} (--ignore-index {low}) leaves out what is labelled so"
            low, high = int(judged.min()), int(judged.max())
            raise DataError(f"labels from {low} to {high}{has}", where=where, fix=fix if low < 0 else "number them from 0")

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
        sizes = [n for n in shape[1:] if isinstance(n, int)]
        if self.spec.dtype == "int64":
            hint = "give each image's class number; of one-hot labels, y.argmax(1)"
        elif len(sizes) == len(shape) - 1 and labels.size == count * prod(sizes):
            hint = f"y.reshape({', '.join(map(str, (-1, *sizes)))})"
        else:
            hint = "give targets of the output's shape"
        raise DataError(f"shape {list(labels.shape)}, the loss takes {shown(shape)}", where=where, fix=hint)


def counted(labels: Array) -> str:
    """How many there are, in words."""
    return "a single label" if labels.ndim == 0 else f"{len(labels)} labels"
