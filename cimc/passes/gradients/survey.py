"""What a differentiation must know of a graph: types, the loss, the values asked for, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from cimc.errors import ModelError
from cimc.ir.bodies import used_values
from cimc.passes.gradients.tape import FLOATS
from cimc.passes.gradients.term import dims_of

#: Opset of training graphs: the first with RMSNormalization, and one that ONNX Runtime 1.32 runs whole on the CPU
#: (training-mode BatchNormalization, Gelu, GroupNormalization with a scale a channel, scatter with reduction).
OPSET = 23


@dataclass(frozen=True)
class Survey:
    """The graph as `survey` found it: ``path`` holds the values that depend on a source and that the loss depends on."""

    nodes: tuple[ir.Node, ...]
    loss: ir.Value
    sources: dict[str, ir.Value]
    path: set[ir.Value]

    def between(self, node: ir.Node) -> bool:
        """Whether a gradient flows through the node."""
        return any(v in self.path for v in node.outputs) and any(v in self.path for v in used_values(node))


def survey(model: ir.Model, loss: str, wrt: Sequence[str]) -> Survey:
    """Infer types and shapes, find the values. Raises ModelError as `build.add_backward` says."""
    graph = model.graph
    if graph.opset_imports.get("") != OPSET:
        raise ModelError(
            f"the training graph needs opset {OPSET}, this one has {graph.opset_imports.get('')}",
            fix=f"convert the model to opset {OPSET}",
        )
    _infer_types(model)
    values = {v.name: v for v in [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)]}
    for name in [loss, *wrt]:
        if not name or name not in values:
            raise ModelError(f"the graph has no value '{name}' to differentiate", fix="check the names with Netron")
    _check_loss(values[loss])
    sources = {name: values[name] for name in wrt}
    for name, value in sources.items():
        if value.dtype is not None and value.dtype not in FLOATS:
            raise ModelError(f"'{name}' is {value.dtype.name} and has no gradient", fix="ask for real values only")
    nodes = tuple(graph)
    return Survey(nodes, values[loss], sources, _path(nodes, values[loss], set(sources.values())))


def _infer_types(model: ir.Model) -> None:
    """Shape inference, then types through operators that it does not know, by their schema (a Vmm's product is as its input)."""
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for node in model.graph:
        version = model.graph.opset_imports.get(node.domain, 1)
        if all(v.type is not None for v in node.outputs) or not onnx.defs.has(node.op_type, node.domain):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        known = {f.type_str: v.type for f, v in zip(schema.inputs, node.inputs, strict=False) if v is not None and v.type}
        for formal, value in zip(schema.outputs, node.outputs, strict=False):
            value.type = value.type or known.get(formal.type_str)


def _check_loss(value: ir.Value) -> None:
    dims = dims_of(value)
    if value.dtype not in FLOATS or any(d != 1 for d in dims or ()):
        kind = value.dtype.name if value.dtype else "unknown type"
        raise ModelError(f"the loss must be one real number, '{value.name}' is {kind} of shape {list(dims or ())}",
                         fix="reduce it with ReduceMean or ReduceSum")  # fmt: skip


def _path(nodes: Sequence[ir.Node], loss: ir.Value, sources: set[ir.Value]) -> set[ir.Value]:
    """Real values, and codes that stand for such, that depend on a source and that the loss depends on."""
    reached = set(sources)
    for node in nodes:
        if any(v in reached for v in used_values(node)):
            codes = {v.dtype for v in node.inputs if v is not None and v in reached}
            if node.op_type == "QuantizeLinear":
                codes.add(node.outputs[0].dtype)
            reached.update(v for v in node.outputs if v.dtype is None or v.dtype in FLOATS or v.dtype in codes)
    wanted = {loss}
    for node in reversed(nodes):
        if any(v in wanted for v in node.outputs):
            wanted.update(used_values(node))
    return reached & wanted
