"""Operators that pick or move elements: their gradients are added where the elements came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def scatter_flat(r: Rule, indices: Term, grad: Term, like: Term) -> Term:
    """Add ``grad`` to zeros of the shape of ``like`` at ``indices`` into its elements in row-major order."""
    zeros = r.op("Expand", r.scalar(0.0), r.op("Reshape", r.size(like), r.ints([1])))
    flat = r.ints([-1])
    added = r.op("ScatterElements", zeros, r.op("Reshape", indices, flat), r.op("Reshape", grad, flat), reduction="add")
    return r.reshape(added, like)


def numbered(r: Rule, like: Term) -> Term:
    """Element numbers, row-major, in the shape of ``like``: a move applied to them tells where each element came from."""
    numbers = r.op("Range", *(r.constant(0, ir.DataType.INT64), r.size(like), r.constant(1, ir.DataType.INT64)))
    return r.reshape(numbers, like)


def moved_back(r: Rule) -> Term:
    """Gradient of a node that moves or repeats elements of its first input, whichever way it does."""
    attributes = {name: attribute.value for name, attribute in r.node.attributes.items()}
    origin = r.op(r.node.op_type, numbered(r, r.x), *(r.optional(i) for i in range(1, len(r.inputs))), **attributes)
    return scatter_flat(r, origin, r.dy, r.x)


@gradient("Compress", "ReverseSequence")
def _moves(r: Rule) -> Sequence[Term]:
    return [moved_back(r)]


@gradient("ScatterElements", "ScatterND")
def _scatter(r: Rule) -> Sequence[Term | None]:
    """What is written goes to the updates; what it replaces has no gradient, what it is added to keeps its own."""
    mode = r.str_attr("reduction", "none")
    if mode not in ("none", "add"):
        r.refuse(f"reduction={mode}", "scatter with reduction none or add")
    elements = r.node.op_type == "ScatterElements"
    axis: dict[str, Any] = {"axis": r.int_attr("axis", 0)} if elements else {}
    updates = r.op("GatherElements" if elements else "GatherND", r.dy, r.arg(1), **axis)
    kept = r.dy if mode == "add" else r.op(r.node.op_type, r.dy, r.arg(1), r.zeros(r.arg(2)), **axis)
    return [kept, None, updates]


@gradient("Slice")
def _slice(r: Rule) -> Sequence[Term]:
    return [_padded_slice(r) or moved_back(r)]


def _padded_slice(r: Rule) -> Term | None:
    """Where limits and sizes are known and steps are one, the gradient is padded with zeros."""
    starts, ends, axes, steps = (r.known(i) for i in (1, 2, 3, 4))
    dims = r.x.dims
    if starts is None or ends is None or dims is None or (axes is None and r.optional(3) is not None):
        return None
    if r.optional(4) is not None and (steps is None or (steps != 1).any()):
        return None
    where = [int(a) % len(dims) for a in (range(len(starts)) if axes is None else axes)]
    begin, end = [0] * len(dims), [0] * len(dims)
    for axis, start, stop in zip(where, starts, ends, strict=True):
        size = dims[axis]
        if not isinstance(size, int):
            return None
        low, high, _ = slice(int(start), int(stop)).indices(size)
        begin[axis], end[axis] = low, size - max(low, high)
    return r.op("Pad", r.dy, r.ints([*begin, *end]))


@gradient("Gather")
def _gather(r: Rule) -> Sequence[Term]:
    """Rows of the axis, brought to the front, are added at their indices."""
    axis, indices, rank = r.int_attr("axis", 0), r.arg(1), r.x.rank
    axis %= rank
    front = [axis, *(a for a in range(rank) if a != axis)]
    picked = indices.rank
    rows = r.op("Transpose", r.dy, perm=[*range(axis, axis + picked), *range(axis), *range(axis + picked, rank - 1 + picked)])
    if axis == 0:
        return [r.op("ScatterND", r.zeros(r.x), _column(r, indices), r.dy, reduction="add")]
    parts = [r.shape(r.x, axis, axis + 1), r.shape(r.x, 0, axis)]
    if axis + 1 < rank:
        parts.append(r.shape(r.x, axis + 1))
    zeros = r.op("Expand", r.scalar(0.0), r.op("Concat", *parts, axis=0))
    added = r.op("ScatterND", zeros, _column(r, indices), rows, reduction="add")
    return [r.op("Transpose", added, perm=[front.index(a) for a in range(rank)])]


def _column(r: Rule, indices: Term) -> Term:
    wide = indices if indices.value.dtype == ir.DataType.INT64 else indices.cast(ir.DataType.INT64)
    return r.op("Unsqueeze", wide, r.ints([-1]))


@gradient("GatherElements")
def _gather_elements(r: Rule) -> Sequence[Term]:
    axis = r.int_attr("axis", 0)
    return [r.op("ScatterElements", r.zeros(r.x), r.arg(1), r.dy, axis=axis, reduction="add")]


@gradient("GatherND")
def _gather_nd(r: Rule) -> Sequence[Term]:
    if r.int_attr("batch_dims", 0):
        return [moved_back(r)]
    return [r.op("ScatterND", r.zeros(r.x), r.arg(1), r.dy, reduction="add")]


@gradient("TopK")
def _top_k(r: Rule) -> Sequence[Term]:
    axis = r.int_attr("axis", -1)
    return [r.op("ScatterElements", r.zeros(r.x), r.save_output(1, ir.DataType.INT64), r.dy, axis=axis, reduction="add")]
