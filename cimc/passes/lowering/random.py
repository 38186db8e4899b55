"""Random operators become steps of their own: their draws are keyed, which ONNX Runtime's generator is not.

A Dropout draws where its ``training_mode`` is a constant true. What stands in a body of Loop, If or Scan, has an element type
that the runtime does not draw, or a ratio or mode that is computed, stays in its digital segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from cimc.ir.bodies import bodies
from cimc.ir.program import RandomStep
from cimc.ir.verify_random import DTYPES

_OPERATORS = {
    "RandomNormal": "normal",
    "RandomNormalLike": "normal",
    "RandomUniform": "uniform",
    "RandomUniformLike": "uniform",
    "Bernoulli": "bernoulli",
    "Multinomial": "multinomial",
    "Dropout": "dropout",
}


def is_random(node: ir.Node) -> bool:
    """Whether the node becomes a `RandomStep`."""
    return _operator(node) is not None and _dtype(node) in DTYPES[_OPERATORS[node.op_type]]


def hidden_random(graph: ir.Graph) -> Iterator[ir.Node]:
    """Random operators that no key reaches, as they stay in a digital segment."""
    for node in graph:
        if _operator(node) is not None and not is_random(node):
            yield node
        for body in bodies(node):
            yield from (inner for inner in ir.traversal.RecursiveGraphIterator(body) if _operator(inner) is not None)


def _operator(node: ir.Node) -> str | None:
    """The kind of draw; None where it draws nothing."""
    found = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return None if found == "dropout" and not _drops(node) else found


def _drops(node: ir.Node) -> bool:
    on = _constant(node, 2)
    return on is not None and bool(on) and (len(node.inputs) < 2 or node.inputs[1] is None or _constant(node, 1) is not None)


def _constant(node: ir.Node, slot: int) -> Any:
    value = node.inputs[slot] if len(node.inputs) > slot else None
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size != 1 else tensor.numpy().item()


def _dtype(node: ir.Node) -> str:
    """Element type of the first output; empty where it is not known."""
    stated = node.attributes.get_int("dtype", None)
    if stated is not None:
        return dtype_name(ir.DataType(stated))
    if node.op_type == "Multinomial":
        return "int32"
    if not node.inputs or node.op_type in ("RandomNormal", "RandomUniform"):
        return "float32"
    source = node.inputs[0]
    return "" if source is None else dtype_name(source.dtype)


def dtype_name(dtype: ir.DataType | None) -> str:
    """An element type as a program names it; empty where it is not known."""
    if dtype is None:
        return ""
    return "string" if dtype == ir.DataType.STRING else dtype.numpy().name


def random_step(node: ir.Node) -> RandomStep:
    """The step of a node that `is_random`."""
    attributes = node.attributes
    operator = _OPERATORS[node.op_type]
    fields: dict[str, Any] = {"name": str(node.name), "operator": operator, "dtype": _dtype(node)}
    fields["outputs"] = tuple(str(value.name) for value in node.outputs if value.name)
    source = node.inputs[0] if node.inputs else None
    if source is None:
        fields["shape"] = tuple(attributes.get_ints("shape"))
    else:
        fields["input"] = str(source.name)
    if operator == "normal":
        fields |= {"offset": attributes.get_float("mean", 0.0), "factor": attributes.get_float("scale", 1.0)}
    elif operator == "uniform":
        low, high = attributes.get_float("low", 0.0), attributes.get_float("high", 1.0)
        fields |= {"offset": low, "factor": high - low}
    elif operator == "multinomial":
        fields["samples"] = attributes.get_int("sample_size", 1)
    elif operator == "dropout":
        ratio = _constant(node, 1)
        fields["ratio"] = 0.5 if ratio is None else ratio
    return RandomStep(**fields)
