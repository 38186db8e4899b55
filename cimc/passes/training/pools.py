"""Max pools in training: one backward operator of the dialect instead of indices and a scatter."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv
from cimc.passes.selection.conv import window


def shorten_pools(graph: ir.Graph, backward: Iterable[ir.Node]) -> None:
    """Replace the backward nodes of every MaxPool over one or two spatial axes by ``cimc.MaxPoolBackward (dy, x, y)``.

    The forward node need not give its indices then, which costs ONNX Runtime far more than the pooling itself.
    """
    of: dict[str, list[ir.Node]] = {}
    for node in backward:
        of.setdefault(node.metadata_props.get("cimc.gradient_of", ""), []).append(node)
    for pool in list(graph):
        x, y = pool.inputs[0] if pool.inputs else None, pool.outputs[0]
        if pool.op_type != "MaxPool" or pool.domain not in ("", "ai.onnx") or len(pool.outputs) < 2 or x is None:
            continue
        group = set(of.get(pool.name or "", ()))
        ends = [v for node in group for v in node.outputs if any(use.node not in group for use in v.uses())]
        reads = {v for node in group for v in node.inputs if v is not None and v.producer() not in group}
        gradients = [v for v in reads if v not in (x, *pool.outputs) and not _is_constant(v)]
        indices = pool.outputs[1]
        if len(ends) != 1 or len(gradients) != 1 or any(use.node not in group for use in indices.uses()):
            continue
        kernel = list(pool.attributes.get_ints("kernel_shape") or ())
        if len(kernel) not in (1, 2) or indices.is_graph_output():
            continue
        _replace(graph, pool, group, ends[0], [gradients[0], x, y], Conv(**window(pool, kernel)))


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
