"""Control flow: the bodies of Loop, If and Scan, and what a node reads through them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The bodies of a node; none for all that is no control flow."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Values that a node reads: its inputs, and what its bodies take from outside (or hold)."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        for inner in body:
            yield from used_values(inner)
        yield from body.outputs
