"""What makes a model unfit: cycles, rules of the ONNX standard, operators that ONNX Runtime refuses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import CimcError, ModelError
from cimc.ir import onnx_io

#: How onnx.checker and ONNX Runtime name the node that they complain about.
_NODE = re.compile(
    r"Name: (\S+) OpType:|node with name '([^']+)'|In Node, \(\"([^\"]+)\"|[Nn]ode:? ?\(([^)]+)\)"
    r"|node\. Name:'([^']+)'|, node name: (\S+?)[,:)]"
)
_RUNTIME_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


@contextmanager
def refusing(where: str, who: str, fix: str, model: ir.Model | None = None) -> Iterator[None]:
    """Turn what a library raises for a bad model into a ModelError that names the node.

    The message names it, or at least its operator, which is then looked for in ``model``.
    """
    try:
        yield
    except CimcError:
        raise
    except (Exception, RecursionError) as error:
        # protobuf, onnx, onnx_ir and ONNX Runtime share no base class, and a damaged model may upset any part of them.
        text = _RUNTIME_PREFIX.sub("", str(error).strip())
        node = next((name for match in _NODE.finditer(text) for name in match.groups() if name), None)
        if node is None and model is not None:
            node = next((n.name for n in model.graph.all_nodes() if f"{n.domain}:{n.op_type}(" in text), None)
        line = " ".join(re.sub(r"\s*==> Context:", ";", text).split())[:500] or type(error).__name__
        raise ModelError(f"{who}: {line}", where=f"{where}, node {node}" if node else where, fix=fix) from None


def acyclic(graph: onnx.GraphProto, where: str) -> None:
    """Refuse a graph, or a subgraph of it, whose nodes wait for each other.

    Raises:
        ModelError: Names the nodes of a cycle.
    """
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    sorter: TopologicalSorter[int] = TopologicalSorter(
        {i: {maker[name] for name in _reads(node) if name in maker} for i, node in enumerate(graph.node)}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        names = [graph.node[i].name or f"{graph.node[i].op_type} #{i}" for i in error.args[1]]
        raise ModelError(
            f"nodes form a cycle: {' -> '.join(names)}", where=f"{where}, node {names[0]}", fix="break it with Loop or Scan"
        ) from None
    for node in graph.node:
        for subgraph in _subgraphs(node):
            acyclic(subgraph, where)


def standard(model: onnx.ModelProto, stripped: Collection[str], where: str) -> None:
    """Run `onnx.checker`; initializers whose bytes are not in the model stand as inputs while it does.

    Raises:
        ModelError: What the checker refuses.
    """
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    kept = [t for t in model.graph.initializer if t.name not in stripped]
    known = {value.name for value in model.graph.input}
    del shell.graph.initializer[:]
    shell.graph.initializer.extend(kept)
    for tensor in model.graph.initializer:
        if tensor.name in stripped and tensor.name not in known:
            shell.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    with refusing(where, "onnx.checker refuses it", "correct the model until onnx.checker.check_model accepts it"):
        onnx.checker.check_model(shell)


def runnable(model: ir.Model, where: str) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Have ONNX Runtime build a session, without optimisation and without copying weights.

    Returns:
        The split form it was built from.

    Raises:
        ModelError: ONNX Runtime's reason, in one line.
    """
    with refusing(where, "it cannot be written again", "export it with another exporter or opset"):
        small, tensors = onnx_io.split(model)
    fix = "replace the operator, or export at an opset and element types that ONNX Runtime's CPU provider has"
    with refusing(where, "ONNX Runtime refuses it", fix, model):
        onnx_io.session(small, tensors)
    return small, tensors


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, its subgraphs' included."""
    yield from node.input
    for graph in _subgraphs(node):
        own = {name for inner in graph.node for name in inner.output}
        own.update(value.name for value in graph.input)
        own.update(tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
