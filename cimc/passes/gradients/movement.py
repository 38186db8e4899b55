"""Shapes and layout: reshapes, transposes, joins, splits, pads, repeats."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.scatter import moved_back
from cimc.passes.gradients.term import Term


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(r: Rule) -> Sequence[Term]:
    return [r.reshape(r.dy, r.x)]


@gradient("Transpose")
def _transpose(r: Rule) -> Sequence[Term]:
    perm = r.ints_attr("perm", [])
    return [r.op("Transpose", r.dy, perm=[perm.index(a) for a in range(len(perm))]) if perm else r.op("Transpose", r.dy)]


@gradient("Concat")
def _concat(r: Rule) -> Sequence[Term]:
    axis = r.int_attr("axis", 0)
    if len(r.inputs) == 1:
        return [r.dy]
    sizes = [r.shape(r.arg(i), axis, axis + 1 if axis != -1 else None) for i in range(len(r.inputs))]
    split = r.op("Concat", *sizes, axis=0)
    return r.ops("Split", r.dy, split, outputs=len(r.inputs), axis=axis)


@gradient("Split")
def _split(r: Rule) -> Sequence[Term]:
    parts = [grad or r.zeros(y) for grad, y in zip(r.grads, r.outputs, strict=True)]
    return [r.op("Concat", *parts, axis=r.int_attr("axis", 0))]


@gradient("Expand")
def _expand(r: Rule) -> Sequence[Term]:
    return [r.sum_to(r.dy, r.x)]


@gradient("Tile")
def _tile(r: Rule) -> Sequence[Term]:
    """Repeats stand before each axis, and are summed."""
    rank = r.x.rank
    pairs = [r.op("Unsqueeze", t, r.ints([1])) for t in (r.arg(1), r.shape(r.x))]
    interleaved = r.op("Reshape", r.op("Concat", *pairs, axis=1), r.ints([-1]))
    return [r.op("Reshape", r.dy, interleaved).sum(range(0, 2 * rank, 2), keepdims=False)]


@gradient("Pad")
def _pad(r: Rule) -> Sequence[Term | None]:
    """A constant pad is cropped again; the other modes repeat elements, which gather their gradients."""
    if r.str_attr("mode", "constant") != "constant":
        return [moved_back(r)]
    pads, axes = r.op("Neg", r.arg(1)), r.optional(3)
    cropped = r.op("Pad", r.dy, pads, *([] if axes is None else [None, axes]))
    value = r.optional(2)
    if value is None:
        return [cropped]
    outside = r.op("ReduceSum", r.dy, keepdims=0) - r.op("ReduceSum", cropped, keepdims=0)
    return [cropped, None, r.reshape(outside, value)]


@gradient("Trilu")
def _trilu(r: Rule) -> Sequence[Term]:
    return [r.op("Trilu", r.dy, *r.inputs[1:], upper=r.int_attr("upper", 1))]


@gradient("SpaceToDepth")
def _space_to_depth(r: Rule) -> Sequence[Term]:
    return [r.op("DepthToSpace", r.dy, blocksize=r.int_attr("blocksize", 1))]


@gradient("DepthToSpace")
def _depth_to_space(r: Rule) -> Sequence[Term]:
    """The blocks go back to depth in DCR order; CRD order has channel and block places exchanged."""
    size = r.int_attr("blocksize", 1)
    depth = r.op("SpaceToDepth", r.dy, blocksize=size)
    if r.str_attr("mode", "DCR") == "DCR":
        return [depth]
    space = r.op("Shape", depth, start=2)
    split = r.op("Reshape", depth, r.op("Concat", r.ints([0, size * size, -1]), space, axis=0))
    return [r.reshape(r.op("Transpose", split, perm=[0, 2, 1, 3, 4]), r.x)]
