"""Bind inputs to constants, fix sizes that the model leaves open, and take the branches that follow.

Example, with ``bind={"sr": 16000}``::

    before  c = Equal (sr, k)      y = If (c) <then_branch = {p = MatMul (x, w16)}, else_branch = {q = MatMul (x, w8)}>
    after   y = MatMul (x, w16)

An If is replaced by one of its branches where its condition depends on constants and on fixed sizes alone, so that the products
in it reach the crossbars, and recurrent layers behind it: an If hides the sizes of its results, which such a layer needs to be
unrolled. Any other stays: ONNX Runtime runs some models only as they were written, as it infers less about the
values of an If. Where it refuses the result, the Ifs that only hide sizes stay too. Nothing else is folded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir

from cimc.errors import VerifyError
from cimc.ir.bodies import bodies, used_values
from cimc.ir.onnx_io import session, split
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_no_products
from cimc.passes.fold import fold_constants
from cimc.passes.reasons import not_applied
from cimc.passes.recipes import Recipes
from cimc.passes.selection.operand import is_constant
from cimc.passes.selection.placement import all_nodes, name_nodes, place_all, record
from cimc.passes.selection.registry import weight_slots
from cimc.passes.selection.sizes import decided
from cimc.passes.specialising.branches import inline, nodes_within
from cimc.passes.specialising.inputs import bind_inputs, fix_shapes

#: Layers whose products wait for the length of a sequence.
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Specialise(Pass):
    """See the module's text.

    Args:
        bind: Values by input name; None: the input's default, which no caller can replace then; the name may be a pattern.
        shapes: Sizes by input name; None leaves one open.
    """

    bind: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)

    name: ClassVar[str] = "specialise"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError once products are selected, or calibration data are read, which are for the inputs that are left."""
        need_no_products(state)
        if state.calibration is not None:
            raise VerifyError("calibration data are read already", fix="run this pass before `read-calibration`")

    def call(self, state: Compilation) -> Sequence[str]:
        name_nodes(state.model)
        place_all(state)
        fix_shapes(state.model.graph, self.shapes)
        state.bound = bind_inputs(state.model.graph, self.bind)
        changed = [*self.shapes, *state.bound]
        if not any(node.op_type == "If" for node in state.model.graph):
            return changed
        model, places = state.model.clone(), dict(state.placements)
        taken = _take_all(state, hiding=True)
        if taken and not _runs(state.model):
            state.model, state.placements, state.recipes = model, places, Recipes()
            taken = _take_all(state, hiding=False)
        return [*changed, *taken]

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a bound input is still open, a size is not the given one, or a node has no name."""
        inputs = {str(value.name): value for value in state.model.graph.inputs}
        for name in state.bound:
            if name in inputs:
                raise VerifyError("it is bound and still an input", where=f"after specialise, input '{name}'")
        for name, sizes in self.shapes.items():
            have = inputs[name].shape if name in inputs else None
            if have is not None and any(size not in (None, dim) for dim, size in zip(have, sizes, strict=True)):
                raise VerifyError(f"its shape is {have}, not {sizes}", where=f"after specialise, input '{name}'")
        for node in all_nodes(state.model):
            if not node.name:
                raise VerifyError("the node has no name", where=f"after specialise, node ({node.op_type})")

    def unchanged(self, state: Compilation) -> str:
        """Nothing is given, and no condition of an If is a constant."""
        return "no input is bound, no size is given, and no If has a constant condition that decides on a product"


def _take_all(state: Compilation, hiding: bool) -> list[str]:
    """Replace Ifs by their branches as long as conditions become known; their names."""
    found: list[str] = []
    while taken := _take_branches(state, hiding):
        found += taken
    return found


def _runs(model: ir.Model) -> bool:
    """Whether ONNX Runtime takes the model."""
    try:
        session(*split(model))
    except Exception:  # ONNX Runtime has a class for every status
        return False
    return True


def _take_branches(state: Compilation, hiding: bool) -> list[str]:
    """Replace every If whose condition is known by now, also one that only hides sizes from products; their names."""
    graph = state.model.graph
    choices = [node for node in graph if node.op_type == "If" and node.domain in ("", "ai.onnx")]
    if not choices:
        return []
    fold_constants(state, _ancestors(choices))
    known = decided(graph)
    taken: list[str] = []
    left: dict[ir.Node, str] = {}
    of_use = _ancestors([*choices, *(node for node in graph if hiding and node.op_type in _RECURRENT)])
    for node in choices:
        condition = node.inputs[0]
        if condition is None or not (node in of_use or _has_products(node)):
            left[node] = "it holds no product, and no recurrent layer depends on it"
            continue
        if is_constant(condition) and condition.const_value is not None:
            value: Any = condition.const_value.numpy()
        else:
            value = known.get(condition)
        if value is None or value.size != 1 or value.reshape(-1)[0] is None:
            left[node] = f"its condition '{condition.name}' is no constant"
            continue
        branch, other = ("then_branch", "else_branch") if value.reshape(-1)[0] else ("else_branch", "then_branch")
        record(state, node, "folded", f"its condition is constant: the {branch.removesuffix('_branch')} branch is always taken")
        for left_out in nodes_within(node.attributes[other].as_graph()):
            record(state, left_out, "folded", f"in the branch of '{node.name}' that is never taken")
        inline(graph, node, node.attributes[branch].as_graph())
        taken.append(str(node.name))
    if not taken:
        for node, why in left.items():
            not_applied("replaced by its branch", node, why)
    return taken


def _has_products(node: ir.Node) -> bool:
    """Whether a branch of an If holds what may go to crossbars."""
    return any(weight_slots(inner) for body in bodies(node) for inner in nodes_within(body))


def _ancestors(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Nodes of the main graph that these follow from: conditions of each If, all inputs of others."""
    found: set[ir.Node] = set()
    todo = [value for node in nodes for value in (node.inputs[:1] if node.op_type == "If" else node.inputs)]
    while todo:
        value = todo.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in found:
            found.add(node)
            todo += used_values(node)
    return found
