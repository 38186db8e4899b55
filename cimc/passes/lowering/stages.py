"""Cut a graph into stages: digital work, then the crossbars that it feeds, then digital work again.

A digital node's stage is the highest of its inputs'; a crossbar's output belongs to the stage after. So all digital nodes
of one stage can run as one segment, and a network needs no more segments than crossbars lie one behind another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs of a control flow node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Values that a node reads: its inputs, and what the bodies of its control flow take from outside (or hold)."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        for inner in body:
            yield from used_values(inner)
        yield from body.outputs


def node_stages(nodes: Sequence[ir.Node], products: Mapping[ir.Node, ir.Value]) -> list[int]:
    """The stage of each node.

    Args:
        nodes: In topological order.
        products: The value that each Vmm node makes, behind all that is merged into it.
    """
    stage_of: dict[ir.Value, int] = {}
    stages = []
    for node in nodes:
        stage = max((stage_of.get(value, 0) for value in used_values(node)), default=0)
        stages.append(stage)
        if node in products:
            stage_of[products[node]] = stage + 1
        else:
            stage_of.update(dict.fromkeys(node.outputs, stage))
    return stages
