"""Resize is linear and separable: applied to the identity along one axis it gives that axis's matrix, to be transposed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term

#: Attributes that say how an axis is sampled; extrapolated samples do not depend on the input.
SAMPLING = ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode")


@gradient("Resize")
def _resize(r: Rule) -> Sequence[Term]:
    if r.str_attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        r.refuse("keep_aspect_ratio_policy other than stretch", "give Resize the sizes that it shall make")
    rank = r.x.rank
    listed = [a % rank for a in r.ints_attr("axes", range(rank))]
    dx = r.dy
    for place, axis in enumerate(listed):
        if not _kept(r, place, axis):
            dx = _along(r, dx, _matrix(r, place, axis, len(listed)), axis, rank)
    return [dx]


def _kept(r: Rule, place: int, axis: int) -> bool:
    """Whether the axis is known to stay as it is."""
    scales, before, after = r.known(2), r.x.dims or (), r.y.dims or ()
    if r.str_attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return axis < 2
    if scales is not None and scales.size:
        return bool(scales[place] == 1)
    return isinstance(before[axis], int) and before[axis] == after[axis]


def _matrix(r: Rule, place: int, axis: int, count: int) -> Term:
    """``[in, out]``: the identity resized along its second axis as the node resizes ``axis``."""
    size = r.shape(r.x, axis, axis + 1 if axis + 1 < r.x.rank else None)
    square = r.op("ConstantOfShape", r.op("Concat", size, size, axis=0), value=ir.tensor(np.zeros(1, r.dtype.numpy())))
    one, at = r.constant([1.0], ir.DataType.FLOAT), r.ints([place])
    roi, scales, sizes = r.optional(1), r.optional(2), r.optional(3)
    inputs: list[Term | None] = [r.op("EyeLike", square), None, None, None]
    if roi is not None and r.str_attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        limits = [r.op("Gather", roi, r.ints([i])).cast(ir.DataType.FLOAT) for i in (place, count + place)]
        zero = r.constant([0.0], ir.DataType.FLOAT)
        inputs[1] = r.op("Concat", zero, limits[0], one, limits[1], axis=0)
    if sizes is not None:
        inputs[3] = r.op("Concat", size, r.op("Gather", sizes, at), axis=0)
    elif scales is not None:
        inputs[2] = r.op("Concat", one, r.op("Gather", scales, at), axis=0)
    attributes = {name: r.node.attributes[name].value for name in SAMPLING if name in r.node.attributes}
    return r.op("Resize", *inputs, **attributes)


def _along(r: Rule, term: Term, matrix: Term, axis: int, rank: int) -> Term:
    """Multiply by ``matrix`` (``[in, out]``) along one axis of ``term``, from out to in."""
    if axis == rank - 2:
        return r.op("MatMul", matrix, term)
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    back = r.op("Transpose", matrix, perm=[1, 0])
    if axis == rank - 1:
        return r.op("MatMul", term, back)
    return r.op("Transpose", r.op("MatMul", r.op("Transpose", term, perm=perm), back), perm=perm)
