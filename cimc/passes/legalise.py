"""Rewrite what later stages would have to know in several forms, so that they know one; results stay the same.

- Every node gets a name of its own, and a place in the placement report.
- A model of IR version 3, where initializers had to be inputs too, becomes one of version 4; no caller could replace
  them before either.
- Constant nodes become initializers.
- An initializer of strings, or others that are no plain numbers, becomes the output of an Identity where it is an output; where
  it is an input too, it is no input any more.
- Quantised products with constant weights become real ones, and those of ONNX Runtime's own operators products of the standard:
  see `quantised`, `fused` and `fused_quantised` in `cimc.passes.selection`. Their weights may be computed, so constants are
  folded first in a model that has such nodes.

Example::

    before  q | y = QLinearConv (x, xs, xz, w, ws, wz, ys, yz)
    after   q/dequantize | v = DequantizeLinear (x, one, xz)
            q | p = Conv (v, weight)
            q/scale | s = Mul (p, scale)
            q/quantize | y = QuantizeLinear (s, unit, yz)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from cimc.errors import ModelError, VerifyError
from cimc.ir.onnx_io import is_plain
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_no_products
from cimc.passes.fold import drop_unused, fold_constants, lift_constants
from cimc.passes.selection.placement import OWNER, all_nodes, name_nodes, place_all, record
from cimc.passes.selection.rewrites import rewrite_of
from cimc.passes.selection.shapes import infer_shapes
from cimc.passes.selection.site import Site, StaysDigital


class Legalise(Pass):
    """One form for each thing; see the module's text for the list."""

    name: ClassVar[str] = "legalise"

    def requires(self, state: Compilation) -> None:
        """Local functions are inlined, and products are not selected yet.

        Raises:
            ModelError: A node calls a function.
            VerifyError: Products are on crossbars already.
        """
        need_no_products(state)
        functions = {identifier[:2] for identifier in state.model.functions}
        for node in all_nodes(state.model) if functions else ():
            if (node.domain, node.op_type) in functions:
                raise ModelError(
                    f"it calls the model's own function {node.op_type}",
                    where=f"node '{node.name}'",
                    fix="inline the functions first: onnx.inliner.inline_local_functions(model)",
                )

    def call(self, state: Compilation) -> Sequence[str]:
        model = state.model
        name_nodes(model)
        place_all(state)
        changed: list[str] = []
        if model.ir_version < 4:
            for value in [v for v in model.graph.inputs if v.is_initializer()]:
                model.graph.inputs.remove(value)
                changed.append(str(value.name))
            model.ir_version = 4
        changed += _text_is_no_array(state)
        changed += lift_constants(state)
        if any(map(rewrite_of, model.graph)):
            changed += fold_constants(state)
            changed += _rewrite(state)
        return changed

    def ensures(self, state: Compilation) -> None:
        """Nodes have names of their own and places.

        Raises:
            VerifyError: One has not.
        """
        seen: set[str] = set()
        for node in all_nodes(state.model):
            name = node.name or ""
            if not name or name in seen:
                raise VerifyError(
                    "two nodes share a name, or one has none", where=f"after legalise, node '{name}' ({node.op_type})"
                )
            if node.metadata_props.get(OWNER, name) not in state.placements:
                raise VerifyError("the node has no place", where=f"after legalise, node '{name}'")
            seen.add(name)

    def unchanged(self, state: Compilation) -> str:
        """The model has none of what is listed in the module's text."""
        return "no Constant, no quantised product, no operator of ONNX Runtime's own that holds a product"


def _text_is_no_array(state: Compilation) -> list[str]:
    """Steps and files hold arrays of numbers: text goes from the model to ONNX Runtime alone. Names of the values concerned."""
    graph = state.model.graph
    changed: list[str] = []
    for value in list(graph.initializers.values()):
        if value.dtype is None or is_plain(value.dtype):
            continue
        if value.is_graph_input():
            graph.inputs.remove(value)
            state.notes.append(f"input {value.name} of type {value.dtype} always has its default: a caller cannot replace it")
            changed.append(str(value.name))
        if value.is_graph_output():
            node = ir.Node("", "Identity", [value], name=f"{value.name}/output")
            (output,) = node.outputs
            output.type, output.shape, name = value.type, value.shape, value.name
            graph.outputs[graph.outputs.index(value)] = output
            value.name = f"{name}/constant"
            output.name = name
            graph.append(node)
            record(state, node, "digital", "a constant text output goes from the model to ONNX Runtime alone")
            changed.append(str(name))
    return changed


def _rewrite(state: Compilation) -> list[str]:
    graph = state.model.graph
    infer_shapes(state.model, (v for n in graph if rewrite_of(n) for v in n.inputs))
    site = Site(state.model, state.target)
    changed: list[str] = []
    for node in list(graph):
        rewrite = rewrite_of(node)
        if rewrite is None:
            continue
        site.begin(node.name or "", node.op_type)
        try:
            values = rewrite(node, site)
        except StaysDigital as reason:
            record(state, node, "digital", str(reason))
            continue
        inputs = list(node.inputs)
        site.replace(node, values)
        drop_unused(graph, inputs)
        changed.append(site.owner)
    return changed
