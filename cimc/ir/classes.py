"""Along which axis of the logits classes lie: the labels' shape decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError

Shape = Sequence[int | str | None]

#: How far the sum of a place's probabilities may lie from 1: a thousand roundings of a float16.
_OFF = 1e-2


@dataclass(frozen=True)
class Classes:
    """How the labels of a softmax cross-entropy lie."""

    axis: int | None = None
    """Axis of the logits along which classes lie; None: that of a Softmax that ends the model, else 1."""
    soft: bool = False
    """Labels are probabilities of the logits' shape, not class numbers."""
    ignore: int | None = None
    """Class number of places that do not count."""


def laid_out(labels: NDArray[Any], logits: Shape, axes: Sequence[int], ignore: int | None, where: str) -> Classes:
    """How labels lie.

    Args:
        labels: Class numbers of the logits' shape without the axis of the classes, or probabilities of the logits' shape.
        logits: Shape of the logits, as far as it is known; images lie along the first axis.
        axes: Those along which classes may lie.
        ignore: Class number of places that do not count.
        where: What errors call the labels.

    Raises:
        DataError: No axis suits the labels, or several do.
    """
    soft = labels.dtype.kind == "f" and _fits(labels.shape, logits)
    if soft:
        found = [a for a in axes if sums_to_one(labels, a)] if len(axes) > 1 else list(axes)
    else:
        found = [a for a in axes if _fits(labels.shape, [*logits[:a], *logits[a + 1 :]])]
    if len(found) == 1:
        return Classes(found[0], soft, None if soft else ignore)
    if found:
        raise DataError(
            f"labels {list(labels.shape)} suit logits {shown(logits)} with classes along axis {' or '.join(map(str, found))}",
            where=where,
            fix=f"class_axis={found[-1]} (--class-axis {found[-1]}) if classes lie along that one",
        )
    if soft:
        raise DataError("probabilities do not sum to 1 along any axis", where=where, fix="give probabilities, or class numbers")
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"class numbers are {labels.dtype}",
            where=where,
            fix=f"give whole numbers, or probabilities of shape {shown(logits)}",
        )
    wanted = " or ".join(dict.fromkeys(shown([*logits[:a], *logits[a + 1 :]]) for a in axes))
    one_hot = labels.ndim == len(logits)
    fix = f"of one-hot labels, y.argmax({axes[-1] if len(axes) == 1 else 'AXIS'})" if one_hot else "give a class number a place"
    raise DataError(f"shape {list(labels.shape)}, the loss takes {wanted}", where=where, fix=fix)


def sums_to_one(labels: NDArray[Any], axis: int) -> bool:
    """Whether probabilities do, along an axis."""
    return bool((np.abs(labels.sum(axis=axis, dtype=np.float64) - 1) <= _OFF).all())


def shown(shape: Shape) -> str:
    """A shape in words; what is not known is ``?``."""
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _fits(found: Sequence[int], wanted: Shape) -> bool:
    """Whether a shape is another but for the number of images, which `Labels` looks at."""
    pairs = list(zip(found, wanted, strict=False))[1:]
    return len(found) == len(wanted) and all(not isinstance(want, int) or have == want for have, want in pairs)
