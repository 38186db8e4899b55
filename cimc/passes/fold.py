"""Compute once, at compile time, what depends on constants only.

Example::

    before  s: y = Shape (k)      w = ConstantOfShape <value = [0.5]> (s)      z = MatMul (x, w)
    after   z = MatMul (x, w)     with the initializer w

What the user may train stays itself: no initializers are merged, what is computed from them leaves its recipe
(`cimc.passes.recipes`), and a weight that a product takes transposed or
reshaped keeps its name, as `select` tells the rearrangement by the weight's view.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import ClassVar

import onnx_ir as ir

from cimc.errors import VerifyError
from cimc.ir.bodies import bodies
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_no_products, need_order
from cimc.passes.evaluate import constant_tensor, evaluate
from cimc.passes.reasons import not_applied
from cimc.passes.recipes import CONSTANT
from cimc.passes.selection.operand import VIEW_OPS, is_constant, resolve
from cimc.passes.selection.placement import name_nodes, record
from cimc.passes.selection.registry import weight_slots
from cimc.passes.selection.shapes import infer_shapes
from cimc.passes.selection.sizes import Entries, entries_of

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


class Fold(Pass):
    """Constant folding that keeps parameters."""

    name: ClassVar[str] = "fold"

    def requires(self, state: Compilation) -> None:
        """Products are not selected yet, and nodes stand in the order of their data, as one sweep folds them.

        Raises:
            ModelError: A node reads what a later one makes.
            VerifyError: Products are on crossbars already.
        """
        need_no_products(state)
        need_order(state.model)

    def call(self, state: Compilation) -> Sequence[str]:
        name_nodes(state.model)
        folded, left = _fold_all(state)
        for node, why in left.items():
            not_applied("folded", node, why)
            row = state.placements.get(node.name or "")
            if row is not None and not row.why and _why_never(node) is None:
                record(state, node, "digital", f"constant, but computed at run time: {why}")
        return folded

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a folded value has no data, or a node makes it still."""
        made = {output.name for node in state.model.graph for output in node.outputs}
        for name, value in state.model.graph.initializers.items():
            if CONSTANT in value.metadata_props and (value.const_value is None or name in made):
                raise VerifyError("a folded value has no data, or two sources", where=f"after fold, value '{name}'")

    def unchanged(self, state: Compilation) -> str:
        """No node depends on constants and fixed sizes alone, or each that does is left, as its own log line says."""
        return "no node that may be folded depends on constants alone"


def fold_constants(state: Compilation, only: Container[ir.Node] | None = None) -> list[str]:
    """Fold what can be folded. A folded size may tell shapes, which tell more sizes.

    Args:
        state: Its model is changed.
        only: Nodes that may be folded; None: all.

    Returns:
        Names of the folded nodes.
    """
    return _fold_all(state, only)[0]


def _fold_all(state: Compilation, only: Container[ir.Node] | None = None) -> tuple[list[str], dict[ir.Node, str]]:
    """Names of the folded nodes; the nodes that depend on constants only and are left, each with the reason."""
    folded: list[str] = []
    while True:
        infer_shapes(state.model)
        more, left = _fold_once(state, only)
        if not more:
            return folded, left
        folded += more


def _fold_once(state: Compilation, only: Container[ir.Node] | None) -> tuple[list[str], dict[ir.Node, str]]:
    graph = state.model.graph
    known: set[ir.Value] = set()  # values that depend on constants only, folded or not
    sizes: dict[ir.Value, Entries] = {}  # integers that depend on shapes
    folded: list[str] = []
    left: dict[ir.Node, str] = {}
    for node in list(graph):
        if only is not None and node not in only:
            continue
        fixed = _fixed_sizes(node, sizes)
        if fixed is None and not all(value is None or value in known or is_constant(value) for value in node.inputs):
            continue
        if (never := _why_never(node)) is not None:
            left[node] = never
            continue
        known.update(node.outputs)
        if any(o.is_graph_output() for o in node.outputs):
            left[node] = "its result is an output of the model"
            continue
        if _is_weight_view(node, known):
            continue  # `select` says of it whether a view tells it
        arrays = evaluate(node, state.model) if fixed is None else [fixed]
        if isinstance(arrays, str):
            left[node] = arrays
            continue
        why = (
            "a constant"
            if node.op_type == "Constant"
            else "computed once from constants"
            if fixed is None
            else "from fixed sizes"
        )
        record(state, node, "folded", why)
        if node.op_type != "Constant":
            state.recipes.record(node, state.model)
        _become_initializers(graph, node, arrays)
        folded.append(str(node.name))
    return folded, left


def lift_constants(state: Compilation) -> list[str]:
    """Turn Constant nodes to initializers; the names of these nodes."""
    lifted: list[str] = []
    for node in list(state.model.graph):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or node.outputs[0].is_graph_output():
            continue
        tensor = constant_tensor(node)
        if tensor is None:
            continue
        record(state, node, "folded", "a constant")
        _become_initializers(state.model.graph, node, [tensor])
        lifted.append(str(node.name))
    return lifted


def _fixed_sizes(node: ir.Node, sizes: dict[ir.Value, Entries]) -> ir.TensorProtocol | None:
    """What a node computes from shapes, where every size that it takes is fixed, whatever the data; ``sizes`` learns of it."""
    entries = entries_of(node, sizes)
    if entries is None:
        return None
    output = node.outputs[0]
    sizes[output] = entries
    if any(entry is None for entry in entries.reshape(-1)):
        return None
    return ir.tensor(entries.astype((output.dtype or ir.DataType.INT64).numpy()))


def _why_never(node: ir.Node) -> str | None:
    """Why a node is not folded whatever its inputs are; None: it may be."""
    if node.domain not in ("", "ai.onnx"):
        return f"an operator of the domain {node.domain}"
    if node.op_type in RANDOM_OPS:
        return "it draws random numbers"
    return "it has bodies" if bodies(node) else None


def _is_weight_view(node: ir.Node, known: set[ir.Value]) -> bool:
    """A rearranged weight on its way to a product with something that is no constant."""
    if node.op_type not in VIEW_OPS or resolve(node.outputs[0]) is None:
        return False
    for use in node.outputs[0].uses():
        if use.node.graph is not node.graph:
            continue
        if use.node.op_type in VIEW_OPS and _is_weight_view(use.node, known):
            return True
        others = [v for v in use.node.inputs if v is not None and v is not node.outputs[0]]
        if use.idx in weight_slots(use.node) and not all(v in known or is_constant(v) for v in others):
            return True
    return False


def _become_initializers(graph: ir.Graph, node: ir.Node, tensors: Sequence[ir.TensorProtocol]) -> None:
    """Replace a node by initializers of the same names; drop initializers that only it used."""
    sources = [v for v in node.inputs if v is not None]
    outputs = [o for o in node.outputs if o.name]
    values = []
    for output, tensor in zip(outputs, tensors, strict=True):
        name = output.name
        tensor.name = name
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor)
        value.metadata_props[CONSTANT] = node.op_type
        values.append((output, value))
    for output, value in values:
        output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    for _, value in values:
        graph.register_initializer(value)
    drop_unused(graph, sources)


def drop_unused(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Take out those of these initializers that nothing uses any more."""
    for value in values:
        if value is None or not value.is_initializer() or value.uses() or value.is_graph_input() or value.is_graph_output():
            continue
        graph.initializers.pop(value.name or "", None)
