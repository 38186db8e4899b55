"""A name for every node, so that reports and layers can speak of it."""

from __future__ import annotations

import onnx_ir as ir

from cimc.ir.names import Names


def unique_node_names(graph: ir.Graph) -> None:
    """Give every node, subgraphs included, a name of its own; the user's names stay, missing ones are like ``Conv_3``."""
    nodes = list(graph.all_nodes())
    names = Names((node.name for node in nodes), first=0)
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            node.name = names.fresh(node.name or node.op_type, numbered=True)
        seen.add(node.name)
