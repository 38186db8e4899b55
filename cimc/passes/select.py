"""Decide node by node what goes to crossbars, and replace it by ``cimc::Vmm``.

Example::

    before  conv1 | y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    after   conv1 | y = cimc.Vmm <layer = "conv1", geometry = "{...}", view_split = [8, 27], view_perm = [1, 0],
                                  view_shape = [1, 27, 8], channel_rows = 9, origin = "Conv"> (x, w, b)
"""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from cimc.errors import ModelError, VerifyError
from cimc.ir.dialect import DOMAIN, VERSION, register_schemas
from cimc.passes.base import Compilation, Pass
from cimc.passes.fold import drop_unused
from cimc.passes.selection.check import check_vmm
from cimc.passes.selection.operand import VIEW_OPS, resolve
from cimc.passes.selection.placement import OWNER, bodies, body_placements, name_nodes, record
from cimc.passes.selection.registry import rules, weight_slots
from cimc.passes.selection.shapes import infer_missing_shapes
from cimc.passes.selection.site import Product, Site, StaysDigital

_CHUNK = 1 << 20


class Select(Pass):
    """Product nodes with a constant weight become ``Vmm``; every other node keeps its place, with the reason."""

    name: ClassVar[str] = "select"

    def requires(self, state: Compilation) -> None:
        """The dialect is known, and the model does not speak it yet.

        Raises:
            ModelError: An operator of the domain ``cimc`` that is none of ours.
        """
        register_schemas()
        for node in state.model.graph:
            if node.domain == DOMAIN and node.op_type != "Vmm":
                raise ModelError(f"the dialect has no operator {node.op_type}", where=f"node '{node.name}'")

    def call(self, state: Compilation) -> bool:
        register_schemas()
        name_nodes(state.model)
        graph = state.model.graph
        infer_missing_shapes(state.model, (v for n in graph if weight_slots(n) for v in n.inputs))
        site = Site(state.model, state.target)
        products = [product for node in list(graph) if node.domain != DOMAIN for product in _select(node, site, state)]
        _name_layers(products)
        if products:
            state.model.opset_imports[DOMAIN] = VERSION
            _check_finite(products)
            _drop_absorbed(state)
        body_placements(state)
        replaceable = [v.name for v in graph.inputs if v.is_initializer()]
        if replaceable:
            state.notes.append(
                f"{len(replaceable)} initializers are inputs too ('{replaceable[0]}', ...): a caller may replace them, so "
                "products with them stay digital; export the model without initializers among its inputs to put them on crossbars"
            )
        return bool(products)

    def ensures(self, state: Compilation) -> None:
        """Every ``Vmm`` is well-formed.

        Raises:
            VerifyError: A view or geometry does not fit its tensor, or a node has no place.
        """
        for node in state.model.graph:
            if node.domain == DOMAIN:
                check_vmm(node)
            owner = node.metadata_props.get(OWNER, node.name)
            if owner not in state.placements:
                raise VerifyError("the node has no place", where=f"after select, node '{node.name}'")


def _select(node: ir.Node, site: Site, state: Compilation) -> list[Product]:
    """Replace one node if its rule says so; its place and the reason are recorded either way."""
    user = state.placements.get(node.name or "")
    found = rules().get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if found is None:
        if user is None or not user.why:
            record(state, node, "digital", "control flow" if bodies(node) else "no product with a constant weight")
        return []
    site.begin(node.name or "", user.op_type if user else node.op_type)
    try:
        values = found.rewrite(node, site)
    except StaysDigital as reason:
        record(state, node, "digital", str(reason))
        return []
    site.replace(node, values)
    shapes = {p.key[0].shape for p in site.products}
    sizes = ", ".join(f"{g} × {r} × {c}" if g > 1 else f"{r} × {c}" for g, r, c in sorted(shapes))
    record(state, node, "analog", f"product with the constant '{site.products[0].weight.name}' ({sizes})")
    return site.products


def _name_layers(products: list[Product]) -> None:
    """Products of one weight and view are one layer: named as its node, or as the initializer where nodes share it."""
    layers: dict[object, list[Product]] = {}
    for product in products:
        layers.setdefault(product.key, []).append(product)
    taken: set[str] = set()
    for members in layers.values():
        wishes = {p.layer for p in members}
        wish = members[0].layer if len(wishes) == 1 else members[0].weight.name or "layer"
        # A layer's name is part of tensor and file names.
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", wish).strip("._-") or "layer"
        name, count = base, 1
        while name.lower() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.lower())
        for product in members:
            product.node.attributes.add(ir.AttrString("layer", name))


def _check_finite(products: list[Product]) -> None:
    """Refuse NaN and Inf, streaming: a sum is finite if all terms are, so only a suspicious chunk is looked at closely."""
    seen: set[str | None] = set()
    for product in products:
        if product.weight.name in seen or product.weight.const_value is None:
            continue
        seen.add(product.weight.name)
        array = product.weight.const_value.numpy()
        if array.size and not any(array.strides):
            array = array.reshape(-1)[:1] if array.ndim == 0 else array[(slice(0, 1),) * array.ndim]
        flat = array.reshape(-1)
        narrow = flat.dtype.itemsize < 4
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            chunk = chunk.astype(np.float32) if narrow else chunk
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(chunk.sum()) or np.isfinite(chunk).all()
            if not finite:
                position = start + int(np.flatnonzero(~np.isfinite(chunk))[0])
                where = tuple(int(i) for i in np.unravel_index(position, product.weight.const_value.shape.numpy()))
                raise ModelError(
                    f"weight '{product.weight.name}' holds {chunk[position - start]} at {list(where)}; no conductance can",
                    where=f"node '{product.node.metadata_props[OWNER]}'",
                    fix="export the model again from finite weights",
                )


def _drop_absorbed(state: Compilation) -> None:
    """Take out rearrangements of weights that a view tells now."""
    graph = state.model.graph
    for node in reversed(list(graph)):
        output = node.outputs[0]
        if node.op_type not in VIEW_OPS or output.uses() or output.is_graph_output() or resolve(output) is None:
            continue
        inputs = list(node.inputs)
        graph.remove(node, safe=True)
        drop_unused(graph, inputs[1:])
        record(state, node, "folded", "part of how a crossbar weight is laid out")
