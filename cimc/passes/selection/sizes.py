"""Integers that a graph computes from shapes, entry by entry: some follow from fixed sizes though the batch is open.

Example, ``x [batch, 5, 8]``::

    s = Shape (x)                      [?, 5, 8]
    h = Slice (s, [1], [3])            [5, 8]: a constant
    n = Concat (s, [4])                [?, 5, 8, 4]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.passes.selection.operand import integers, is_constant, reshaped

#: Integers, or None where the entry is not known; rank 0 or 1.
Entries = NDArray[np.object_]
#: Shape arithmetic has few entries; longer constants are none.
_MOST = 64
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def entries_of(node: ir.Node, known: Mapping[ir.Value, Entries]) -> Entries | None:
    """What a node computes from sizes; None where it is no such arithmetic.

    Args:
        node: Of the main graph.
        known: What was found for earlier nodes.
    """
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Shape":
        return rule(node, [])
    operands = [_entries(value, known) for value in node.inputs if value is not None]
    found = [operand for operand in operands if operand is not None]
    if len(found) != len(operands) or not any(value in known for value in node.inputs):
        return None  # constants alone are ONNX Runtime's to compute
    try:
        return rule(node, found)
    except (ValueError, IndexError, TypeError):  # the node does not fit its operands; whoever runs it says so
        return None


def decided(graph: ir.Graph) -> dict[ir.Value, Entries]:
    """What the main graph computes from sizes, comparisons and conditions included; None where an entry is not known."""
    known: dict[ir.Value, Entries] = {}
    for node in graph:
        found = entries_of(node, known)
        if found is None:
            found = _condition(node, known)
        if found is not None:
            known[node.outputs[0]] = found
    return known


def _condition(node: ir.Node, known: Mapping[ir.Value, Entries]) -> Entries | None:
    """A comparison of sizes, the rank of a value, or how many elements it has."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Size" and (value := node.inputs[0]) is not None and value.shape is not None and value.shape.is_static():
        return np.array(prod(d for d in value.shape if isinstance(d, int)), object)
    operands = [_entries(value, known) if value is not None else None for value in node.inputs]
    found = [operand for operand in operands if operand is not None]
    if not found or len(found) != len(operands):
        return None
    if node.op_type == "Size":
        return np.array(found[0].size, object)
    rule = _CONDITIONS.get(node.op_type)
    return None if rule is None else rule(node, found)


def _entries(value: ir.Value, known: Mapping[ir.Value, Entries]) -> Entries | None:
    if value in known:
        return known[value]
    tensor = value.const_value if is_constant(value) else None
    if tensor is None or tensor.dtype not in _INTEGERS or tensor.size > _MOST or len(tensor.shape) > 1:
        return None
    return tensor.numpy().astype(object)


def _shape(node: ir.Node, _: list[Entries]) -> Entries | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    dims = [d if isinstance(d, int) else None for d in shape]
    return _array(dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)])


def _array(entries: list[int | None]) -> Entries:
    found = np.empty(len(entries), object)
    found[:] = entries
    return found


def _same(node: ir.Node, operands: list[Entries]) -> Entries | None:
    return operands[0]


def _cast(node: ir.Node, operands: list[Entries]) -> Entries | None:
    return operands[0] if node.attributes.get_int("to", 0) in (ir.DataType.INT64, ir.DataType.INT32) else None


def _reshape(node: ir.Node, operands: list[Entries]) -> Entries | None:
    shape = reshaped(node, operands[0].shape)
    return operands[0].reshape(shape) if shape is not None and len(shape) < 2 else None


def _gather(node: ir.Node, operands: list[Entries]) -> Entries | None:
    index = integers(node.inputs[1])
    if index is None or operands[0].ndim != 1 or operands[1].ndim > 1:
        return None
    return np.asarray(operands[0][np.array(index, np.int64).reshape(operands[1].shape)], object)


def _slice(node: ir.Node, operands: list[Entries]) -> Entries | None:
    if len(node.inputs) < 3:  # attributes, before opset 10
        return None
    step = integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else [1]
    limits = [value for found in (integers(node.inputs[1]), integers(node.inputs[2]), step) for value in found or ()]
    if len(limits) != 3 or operands[0].ndim != 1 or limits[2] < 1:
        return None
    return operands[0][limits[0] : limits[1] : limits[2]]


def _concat(node: ir.Node, operands: list[Entries]) -> Entries | None:
    return np.concatenate(operands)


def _boolean(node: ir.Node, operands: list[Entries]) -> Entries | None:
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) != ir.DataType.BOOL:
        return None
    flat = operands[0].reshape(-1)
    return _array([None if a is None else bool(a) != (node.op_type == "Not") for a in flat]).reshape(operands[0].shape)


def _elementwise(function: Callable[[int, int], int | None]) -> Callable[[ir.Node, list[Entries]], Entries | None]:
    def one(a: Any, b: Any) -> int | None:
        return None if a is None or b is None else function(int(a), int(b))

    def rule(node: ir.Node, operands: list[Entries]) -> Entries | None:
        a, b = np.broadcast_arrays(*operands)
        return _array([one(x, y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)]).reshape(a.shape)

    return rule


_RULES: dict[str, Callable[[ir.Node, list[Entries]], Entries | None]] = {
    "Shape": _shape,
    "Identity": _same,
    "Cast": _cast,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(lambda a, b: a // b if a >= 0 and b > 0 else None),
}
_CONDITIONS: dict[str, Callable[[ir.Node, list[Entries]], Entries | None]] = {
    "Cast": _boolean,
    "Not": _boolean,
    "Equal": _elementwise(lambda a, b: a == b),
    "Greater": _elementwise(lambda a, b: a > b),
    "Less": _elementwise(lambda a, b: a < b),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b),
    "LessOrEqual": _elementwise(lambda a, b: a <= b),
    "And": _elementwise(lambda a, b: bool(a and b)),
    "Or": _elementwise(lambda a, b: bool(a or b)),
}
