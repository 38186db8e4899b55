"""Backward nodes as they are appended to the graph, and the names of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.names import Names

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
    _constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tape, self._count = ir.tape.Tape(self.graph), 0
        taken = [value.name for value in (*self.graph.inputs, *self.graph.initializers.values())]
        for node in self.graph:
            taken += [node.name, *(value.name for value in node.outputs)]
        self._names = Names(taken, sign=".", first=0)

    @property
    def nodes(self) -> list[ir.Node]:
        """What was appended and is still there, in its order."""
        return [node for node in self._tape.nodes if node.graph is self.graph]

    def unique(self, stem: str) -> str:
        """A name that neither a node nor a value of the graph has."""
        return self._names.fresh(stem)

    def emit(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any], domain: str, owner: str, outputs: int
    ) -> Sequence[ir.Value]:
        name = self.unique(f"{owner}.grad.{self._count}")
        made = [ir.Value(name=self.unique(f"{name}.{op_type}")) for _ in range(outputs)]
        self._count += 1
        return self._tape.op_multi_out(
            op_type, inputs, attributes, outputs=made, domain=domain, name=name, metadata_props={"cimc.gradient_of": owner}
        )

    def constant(self, array: NDArray[Any], dtype: ir.DataType) -> ir.Value:
        """One Constant node a distinct tensor; initializers are left to the parameters."""
        key = (dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array.astype(dtype.numpy()))
            (value,) = self.emit("Constant", [], {"value": tensor}, "", "constant", 1)
            value.type, value.shape = ir.TensorType(dtype), ir.Shape(array.shape)
            self._constants[key] = value
        return self._constants[key]
