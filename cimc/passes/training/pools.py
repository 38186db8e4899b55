"""Max pools in training: the pool before what grows with its input, and one backward operator instead of a scatter by indices."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv
from cimc.passes.reasons import not_applied
from cimc.passes.selection.conv import window


def pool_first(graph: ir.Graph) -> None:
    """Move every MaxPool before the Relu, and the Add of one number a channel, that it directly follows.

    These grow with their input, in floating point too, so the output is the same to the last bit. Forward and backward they
    then work on the few elements that the pool leaves, and what training keeps of the layer is the product itself.
    """
    for pool in list(graph):
        if pool.op_type == "MaxPool" and pool.domain in ("", "ai.onnx"):
            while (why := _swap(graph, pool)) is None:
                pass
            not_applied("moved forward (further)", pool, why)


def _swap(graph: ir.Graph, pool: ir.Node) -> str | None:
    """Exchange a pool and the node before it, or tell why not."""
    x, y = pool.inputs[0], pool.outputs[0]
    node = None if x is None else x.producer()
    if x is None or node is None or node.graph is not graph:
        return "it reads an input of the model"
    if len(x.uses()) != 1 or x.is_graph_output():
        return f"'{x.name}' is read elsewhere too"
    moved = _grows_with(node)
    if moved is None:
        return f"the output of '{node.name}' ({node.op_type}) does not grow with its input, alike within a channel"
    if any(out.uses() or out.is_graph_output() for out in pool.outputs[1:]):
        return "its indices are read"
    # The node that moves takes over the pool's readers, and the name that they know.
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    pool.replace_input_with(0, moved)
    node.replace_input_with(list(node.inputs).index(moved), y)
    y.name, x.name, x.type, x.shape = f"{moved.name}/{pool.name}", y.name, y.type, y.shape
    graph.remove(node)
    graph.insert_after(pool, node)
    return None


def _grows_with(node: ir.Node) -> ir.Value | None:
    """The input that the node's output grows with, element by element and alike within a channel; None: no such node."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Relu":
        return node.inputs[0]
    if node.op_type != "Add":
        return None
    for value, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        if value is None or other is None or value.shape is None or other.shape is None or len(value.shape) < 3:
            continue
        spatial = len(value.shape) - 2
        if len(other.shape) <= len(value.shape) and all(size == 1 for size in other.shape[-spatial:]):
            return value
    return None


def shorten_pools(graph: ir.Graph, backward: Iterable[ir.Node]) -> None:
    """Replace the backward nodes of every MaxPool over one or two spatial axes by ``cimc.MaxPoolBackward (dy, x, y)``.

    The forward node need not give its indices then, which costs ONNX Runtime far more than the pooling itself.
    """
    of: dict[str, list[ir.Node]] = {}
    for node in backward:
        of.setdefault(node.metadata_props.get("cimc.gradient_of", ""), []).append(node)
    for pool in list(graph):
        x = pool.inputs[0] if pool.inputs else None
        if pool.op_type != "MaxPool" or pool.domain not in ("", "ai.onnx") or len(pool.outputs) < 2 or x is None:
            continue
        why = _shorten(graph, pool, x, set(of.get(pool.name or "", ())))
        if why is not None:
            not_applied("given a backward operator of its own", pool, why)


def _shorten(graph: ir.Graph, pool: ir.Node, x: ir.Value, group: set[ir.Node]) -> str | None:
    """Replace the backward nodes ``group`` of one MaxPool of ``x``, or tell why not."""
    ends = [v for node in group for v in node.outputs if any(use.node not in group for use in v.uses())]
    reads = {v for node in group for v in node.inputs if v is not None and v.producer() not in group}
    gradients = [v for v in reads if v not in (x, *pool.outputs) and not _is_constant(v)]
    indices = pool.outputs[1]
    if len(ends) != 1 or len(gradients) != 1:
        return "no gradient goes through it, or several do"
    if any(use.node not in group for use in indices.uses()) or indices.is_graph_output():
        return "its indices are read"
    kernel = list(pool.attributes.get_ints("kernel_shape") or ())
    if len(kernel) not in (1, 2):
        return f"its window has {len(kernel)} axes"
    _replace(graph, pool, group, ends[0], [gradients[0], x, pool.outputs[0]], Conv(**window(pool, kernel)))
    return None


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    return value.const_value is not None or (node is not None and node.op_type == "Constant")


def _replace(graph: ir.Graph, pool: ir.Node, group: set[ir.Node], end: ir.Value, inputs: list[ir.Value], geometry: Conv) -> None:
    attributes = {"geometry": geometry.model_dump_json()}
    made = ir.node("MaxPoolBackward", inputs, attributes=attributes, domain=DOMAIN, name=f"{pool.name}.grad")
    output, x = made.outputs[0], inputs[1]
    output.name, output.type, output.shape = f"{pool.name}.grad.MaxPoolBackward", x.type, x.shape
    last = end.producer()
    if last is None:
        return
    graph.insert_after(last, made)
    end.replace_all_uses_with(output)
    graph.remove(sorted(group, key=lambda node: node.name or ""), safe=True)
    pool.resize_outputs(1)
