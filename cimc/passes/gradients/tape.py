"""Backward nodes as they are appended to the graph, and the names of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def describe(node: ir.Node) -> str:
    """``node 'relu_3' (Relu)``; the domain is shown where it is not ONNX's own, the first output where there is no name."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"node '{name_of(node)}' ({operator})"


def name_of(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


@dataclass
class Tape:
    """Appends the backward nodes to a graph, named after the forward node they belong to."""

    graph: ir.Graph
    nodes: list[ir.Node] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    _constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph:
            self.names.update({node.name or "", *(v.name or "" for v in node.outputs)})
        self.names.update({*(v.name or "" for v in self.graph.inputs), *self.graph.initializers})

    def unique(self, stem: str) -> str:
        """A name that neither a node nor a value of the graph has."""
        name, count = stem, 0
        while name in self.names:
            name, count = f"{stem}.{count}", count + 1
        self.names.add(name)
        return name

    def emit(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any], domain: str, owner: str, outputs: int
    ) -> Sequence[ir.Value]:
        node = ir.Node(
            domain, op_type, inputs, ir.convenience.convert_attributes(attributes), num_outputs=outputs,
            name=self.unique(f"{owner}.grad.{len(self.nodes)}"), metadata_props={"cimc.gradient_of": owner},
        )  # fmt: skip
        for value in node.outputs:
            value.name = self.unique(f"{node.name}.{op_type}")
        self.graph.append(node)
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: NDArray[Any], dtype: ir.DataType) -> ir.Value:
        """One Constant node a distinct tensor; initializers are left to the parameters."""
        key = (dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array.astype(dtype.numpy()))
            (value,) = self.emit("Constant", [], {"value": tensor}, "", "constant", 1)
            value.type, value.shape = ir.TensorType(dtype), ir.Shape(array.shape)
            self._constants[key] = value
        return self._constants[key]
