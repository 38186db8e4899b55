"""Conditions that several passes require. Each error names the pass that should run before, or the one that comes after."""

from __future__ import annotations

import onnx_ir as ir

from cimc.errors import ModelError, VerifyError
from cimc.ir.dialect import DOMAIN
from cimc.passes.base import Compilation


def need_graph(state: Compilation) -> None:
    """Raise a VerifyError once the graph is lowered: a change of it would not reach the program."""
    if state.program is not None:
        raise VerifyError("the graph is lowered to a program already", fix="run this pass before `lower`")


def need_no_products(state: Compilation) -> None:
    """Raise a VerifyError once the graph is lowered, or a product is on a crossbar: its weight and layer are fixed then."""
    need_graph(state)
    for node in state.model.graph:
        if node.domain == DOMAIN:
            raise VerifyError(
                "products are on crossbars already", where=f"node '{node.name}'", fix="run this pass before `select`"
            )


def need_names(state: Compilation) -> None:
    """Raise a VerifyError where a node of the main graph has no name."""
    for node in state.model.graph:
        if not node.name:
            raise VerifyError("a node has no name", where=f"node ({node.op_type})", fix="run pass `legalise` before")


def need_reasons(state: Compilation) -> None:
    """Raise a VerifyError once the graph is lowered, or where a node has no reason yet to be where it is."""
    need_graph(state)
    for row in state.placements.values():
        if not row.why:
            raise VerifyError(
                "it is not decided yet where it runs", where=f"node '{row.name}' ({row.op_type})", fix="run pass `select` before"
            )


def need_order(model: ir.Model) -> None:
    """Raise a ModelError where a node reads what a later one makes."""
    made: set[ir.Node] = set()
    for node in model.graph:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if value is not None and producer is not None and producer not in made:
                raise ModelError(
                    f"it reads '{value.name}' before '{producer.name}' ({producer.op_type}) makes it",
                    where=f"node '{node.name}' ({node.op_type})",
                    fix="sort the nodes: onnx_ir.passes.common.TopologicalSortPass",
                )
        made.add(node)


def need_cuts(state: Compilation) -> None:
    """Raise a VerifyError before `lower`, or where a layer is not cut to arrays."""
    for layer in state.need_program().layers:
        if not layer.row_cuts or not layer.column_cuts:
            raise VerifyError("the layer is not cut to arrays yet", where=f"layer {layer.name}", fix="run pass `tile` before")


def need_samples(state: Compilation) -> None:
    """Raise a VerifyError where no inputs of a layer of the program were kept."""
    for layer in state.need_program().layers:
        if layer.name not in state.samples:
            raise VerifyError("none of its inputs were kept", where=f"layer {layer.name}", fix="run pass `calibrate` before")
