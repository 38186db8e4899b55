"""A name for every node, so that reports and layers can speak of it."""

from __future__ import annotations

import onnx_ir as ir


def unique_node_names(graph: ir.Graph) -> None:
    """Give every node, subgraphs included, a name of its own; the user's names stay, missing ones are like ``Conv_3``."""
    nodes = list(graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for node in nodes:
        base = node.name or node.op_type
        if not node.name or node.name in seen:
            number = counts.get(base, 0)
            while f"{base}_{number}" in taken:
                number += 1
            counts[base] = number + 1
            node.name = f"{base}_{number}"
            taken.add(node.name)
        seen.add(node.name)
