"""Put the body of a branch in the place of its If."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from cimc.ir.bodies import bodies
from cimc.ir.names import Names


def nodes_within(body: ir.Graph) -> Iterator[ir.Node]:
    """Nodes of a body and of the bodies in it."""
    return iter(ir.traversal.RecursiveGraphIterator(body))


def inline(graph: ir.Graph, node: ir.Node, body: ir.Graph) -> None:
    """Replace a node of the main graph by a body of it, whose values get other names where the graph has such already."""
    outputs = list(body.outputs)
    inner = list(body)
    constants = list(body.initializers.values())
    names = Names(_names(graph, node))
    made = {output for one in inner for output in one.outputs}
    for value in (*constants, *(output for one in inner for output in one.outputs)):
        if value.name:
            value.name = names.fresh(value.name)
    body.outputs.clear()
    for value in constants:
        body.initializers.pop(value.name or "")
        graph.register_initializer(value)
    body.remove(inner)
    graph.insert_before(node, inner)
    given: set[ir.Value] = set()
    for old, new in zip(list(node.outputs), outputs, strict=True):
        if new.shape is None or new.type is None:
            new.shape, new.type = new.shape or old.shape, new.type or old.type
        if old.is_graph_output():
            if new not in made or new in given or new.is_graph_output():
                new = _copy(graph, node, new)
            given.add(new)
            position, name = graph.outputs.index(old), old.name
            old.name = None
            new.name = name
            graph.outputs[position] = new
        old.replace_all_uses_with(new)
    graph.remove(node, safe=True)


def _copy(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """The value under another name: what comes from outside of a branch cannot take that of an output."""
    identity = ir.Node("", "Identity", [value], name=f"{node.name}/output")
    identity.outputs[0].shape, identity.outputs[0].type = value.shape, value.type
    graph.insert_before(node, identity)
    return identity.outputs[0]


def _names(graph: ir.Graph, left_out: ir.Node) -> set[str]:
    """Names of all values but those in the bodies of one node."""
    names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        names |= {str(output.name) for output in node.outputs}
        for body in bodies(node) if node is not left_out else ():
            for inner in nodes_within(body):
                names |= {str(output.name) for output in inner.outputs}
            names |= {str(value.name) for value in (*body.inputs, *body.initializers.values())}
    return names
