"""One form for what ONNX Runtime accepts in several: nodes in the order of their data, one name for the standard domain.

ONNX Runtime runs models that `onnx.checker` refuses: nodes in any order, graphs without a name, the standard operators under
the domain ``ai.onnx``. Later stages know one form of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx

from cimc.errors import ModelError


def normalise(model: onnx.ModelProto, where: str) -> None:
    """Bring a model to the one form, in place.

    Raises:
        ModelError: Nodes of a graph wait for each other; it names those of one cycle.
    """
    for entry in (*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)):
        entry.domain = _domain(entry.domain)
    _one_opset_each(model)
    stated = {value.name: value for value in model.graph.input}
    for value in model.graph.output:
        if not value.HasField("type") and value.name in stated:
            value.type.CopyFrom(stated[value.name].type)
    if not model.graph.name:
        model.graph.name = "graph"
    for node in model.graph.node:
        node.domain = _domain(node.domain)  # not in bodies: there ONNX Runtime does not know this name
    for graph in (model.graph, *model.functions):
        _nodes(graph, where)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _one_opset_each(model: onnx.ModelProto) -> None:
    """Of several entries of one domain ONNX Runtime takes the last."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if len(versions) < len(model.opset_import):
        del model.opset_import[:]
        model.opset_import.extend(onnx.OperatorSetIdProto(domain=d, version=v) for d, v in versions.items())


def _nodes(graph: Any, where: str) -> None:
    """The nodes of a graph or function, and of their subgraphs."""
    for node in graph.node:
        for subgraph in subgraphs(node):
            _nodes(subgraph, where)
    _sort(graph, where)


def _sort(graph: Any, where: str) -> None:
    """Put nodes behind those whose outputs they read; an order that is right stays."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waits = [{maker[name] for name in _reads(node) if name in maker} for node in graph.node]
    if all(j < i for i, needed in enumerate(waits) for j in needed):
        return
    try:
        TopologicalSorter(dict(enumerate(waits))).prepare()
    except CycleError as error:
        names = [graph.node[i].name or f"{graph.node[i].op_type} #{i}" for i in error.args[1]]
        raise ModelError(
            f"nodes form a cycle: {' -> '.join(names)}", where=f"{where}, node {names[0]}", fix="break it with Loop or Scan"
        ) from None
    import networkx as nx

    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(waits)))
    order.add_edges_from((j, i) for i, needed in enumerate(waits) for j in needed)
    sorted_ = nx.lexicographical_topological_sort(order)
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in sorted_]
    del graph.node[:]
    graph.node.extend(nodes)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model: those of functions and of bodies too."""
    todo = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while todo:
        node = todo.pop()
        yield node
        todo += [inner for graph in subgraphs(node) for inner in graph.node]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, its subgraphs' included."""
    yield from node.input
    for graph in subgraphs(node):
        own = {name for inner in graph.node for name in inner.output}
        own.update(value.name for value in graph.input)
        own.update(tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)
