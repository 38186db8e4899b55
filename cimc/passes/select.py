"""Decide node by node what goes to crossbars, and replace it by ``cimc::Vmm``.

Example::

    before  conv1 | y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    after   conv1 | y = cimc.Vmm <layer = "conv1", geometry = "{...}", view_split = [8, 27], view_perm = [1, 0],
                                  view_shape = [1, 27, 8], channel_rows = 9, origin = "Conv"> (x, w, b)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx_ir as ir

from cimc.errors import CimcError, ModelError, VerifyError
from cimc.ir.bodies import bodies
from cimc.ir.dialect import DOMAIN, VERSION, register_schemas
from cimc.ir.names import Names
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_graph, need_reasons
from cimc.passes.fold import drop_unused
from cimc.passes.reasons import not_applied
from cimc.passes.selection.check import check_vmm
from cimc.passes.selection.finite import check_finite
from cimc.passes.selection.fused import why_foreign
from cimc.passes.selection.observe import observe
from cimc.passes.selection.operand import VIEW_OPS, resolve
from cimc.passes.selection.placement import OWNER, body_placements, name_nodes, record, why_control_flow
from cimc.passes.selection.registry import rules, weight_slots
from cimc.passes.selection.shapes import infer_shapes
from cimc.passes.selection.site import Product, Site, SizeUnknown, StaysDigital


@dataclass(frozen=True)
class Select(Pass):
    """Product nodes with a constant weight become ``Vmm``; every other node keeps its place, with the reason.

    Args:
        digital: Names, or patterns of names, of nodes, layers or weights whose products stay digital.
    """

    digital: Sequence[str] = ()

    name: ClassVar[str] = "select"

    def requires(self, state: Compilation) -> None:
        """The graph is not lowered yet, and the dialect is known.

        Raises:
            ModelError: An operator of the domain ``cimc`` that is none of ours.
            VerifyError: The graph is lowered already.
        """
        need_graph(state)
        register_schemas()
        for node in state.model.graph:
            if node.domain == DOMAIN and node.op_type != "Vmm":
                raise ModelError(f"the dialect has no operator {node.op_type}", where=f"node '{node.name}'")

    def call(self, state: Compilation) -> Sequence[str]:
        register_schemas()
        name_nodes(state.model)
        graph = state.model.graph
        infer_shapes(state.model, (v for n in graph if weight_slots(n) for v in n.inputs))
        site = Site(state.model, state.target)
        nodes = [node for node in graph if node.domain != DOMAIN]
        kept = self._kept(nodes, state)
        products, unsure = _select_all([node for node in nodes if node not in kept], site, state)
        if unsure and observe(state, list(dict.fromkeys(v for node in unsure for v in node.inputs if v is not None))):
            products += _select_all(unsure, site, state)[0]
        _name_layers(products)
        for product in products:
            _check(product)
        if products:
            state.model.opset_imports[DOMAIN] = VERSION
            check_finite(products)
            _drop_absorbed(state)
        body_placements(state)
        replaceable = [v.name for v in graph.inputs if v.is_initializer()]
        if replaceable:
            state.notes.append(
                f"{len(replaceable)} initializers are inputs too ('{replaceable[0]}', ...): a caller may replace them, so "
                "products with them stay digital; --bind '*' makes all inputs that have a default constants"
            )
        return [str(product.node.name) for product in products]

    def _kept(self, nodes: list[ir.Node], state: Compilation) -> set[ir.Node]:
        """The nodes that are to stay digital; their place is recorded.

        Raises:
            CimcError: A name or pattern belongs to no product.
        """
        able = {node: _names(node) for node in nodes if node.domain in ("", "ai.onnx") and node.op_type in rules()}
        kept: set[ir.Node] = set()
        for pattern in self.digital:
            found = [node for node, names in able.items() if any(fnmatchcase(name, pattern) for name in names)]
            if not found:
                raise CimcError(f"no product is called {pattern}", where="digital", fix="`cimc inspect` lists the layers")
            kept |= set(found)
        for node in kept:
            record(state, node, "digital", "kept digital, as asked")
        return kept

    def ensures(self, state: Compilation) -> None:
        """Every ``Vmm`` is well-formed, and every node has a place with a reason.

        Raises:
            VerifyError: A view or geometry does not fit its tensor, or a node has no place or no reason.
        """
        need_reasons(state)
        for node in state.model.graph:
            if node.domain == DOMAIN:
                check_vmm(node)
            owner = node.metadata_props.get(OWNER, node.name)
            if owner not in state.placements:
                raise VerifyError("the node has no place", where=f"after select, node '{node.name}'")

    def unchanged(self, state: Compilation) -> str:
        """No product goes to crossbars; the placement report has a reason for each node."""
        return "no product goes to crossbars; the placement report says why of each node"


def _select_all(nodes: list[ir.Node], site: Site, state: Compilation) -> tuple[list[Product], list[ir.Node]]:
    """Replace what the rules allow; the products, and the nodes that stay for want of a size."""
    products: list[Product] = []
    unsure = []
    for node in nodes:
        try:
            products += _select(node, site, state)
        except SizeUnknown:
            unsure.append(node)
    return products, unsure


def _select(node: ir.Node, site: Site, state: Compilation) -> list[Product]:
    """Replace one node if its rule says so; its place and the reason are recorded either way.

    Raises:
        SizeUnknown: It stays, for want of a size.
    """
    user = state.placements.get(node.name or "")
    found = rules().get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if found is None:
        if user is None or not user.why:
            why = why_control_flow(node) if bodies(node) else why_foreign(node) or "no product with a constant weight"
            record(state, node, "digital", why)
        return []
    site.begin(node.name or "", user.op_type if user else node.op_type)
    try:
        values = found.rewrite(node, site)
    except StaysDigital as reason:
        record(state, node, "digital", str(reason))
        if isinstance(reason, SizeUnknown):
            raise
        return []
    site.replace(node, values)
    shapes = {p.key[0].shape for p in site.products}
    sizes = ", ".join(f"{g} × {r} × {c}" if g > 1 else f"{r} × {c}" for g, r, c in sorted(shapes))
    record(state, node, "analog", f"product with the constant '{site.products[0].weight.name}' ({sizes})")
    return site.products


def _check(product: Product) -> None:
    """Refuse what does not fit: numbers of a model reach compiled code only from here.

    Raises:
        ModelError: It names the user's node.
    """
    try:
        check_vmm(product.node)
    except VerifyError as error:
        where = f"node '{product.node.metadata_props[OWNER]}'"
        raise ModelError(error.what, where=where, fix="correct the node, or export the model again") from None


def _names(node: ir.Node) -> set[str]:
    """What users may call a product: its node, its weight, or the layer that either would be."""
    given = [node.name or "", *(value.name or "" for value in node.inputs if value is not None and value.is_initializer())]
    return {name for name in given if name} | {_layer_name(name) for name in given if name}


def _layer_name(wish: str) -> str:
    """The name as part of tensor and file names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", wish).strip("._-") or "layer"


def _name_layers(products: list[Product]) -> None:
    """Products of one weight and view are one layer: named as its node, or as the initializer where nodes share it."""
    layers: dict[object, list[Product]] = {}
    for product in products:
        layers.setdefault(product.key, []).append(product)
    names = Names(key=str.lower)
    for members in layers.values():
        wishes = {p.layer for p in members}
        wish = members[0].layer if len(wishes) == 1 else members[0].weight.name or "layer"
        name = names.fresh(_layer_name(wish))
        for product in members:
            product.node.attributes.add(ir.AttrString("layer", name))


def _drop_absorbed(state: Compilation) -> None:
    """Take out rearrangements of weights that a view tells now."""
    graph = state.model.graph
    for node in reversed(list(graph)):
        output = node.outputs[0]
        if node.op_type not in VIEW_OPS or resolve(output) is None:
            continue
        if output.uses() or output.is_graph_output():
            not_applied("absorbed by a crossbar weight", node, "its result is read elsewhere too")
            continue
        inputs = list(node.inputs)
        graph.remove(node, safe=True)
        drop_unused(graph, inputs[1:])
        record(state, node, "folded", "part of how a crossbar weight is laid out")
