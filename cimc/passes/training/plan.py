"""The list of what trains: every real initializer of the model, where it lives, and why it trains or does not."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from cimc.ir.bodies import bodies, used_values
from cimc.ir.program import Parameter
from cimc.passes.parameters import Use, uses
from cimc.passes.recipes import CONSTANT, RECIPE, Recipes
from cimc.passes.selection.operand import FLOATS

#: Roles whose slot, or place behind a product, tells that a Constant node is a parameter.
_CLEAR = ("weight", "bias", "scale")
_OWNED = (*_CLEAR, "table", "statistics")
#: Metadata of an initializer: JSON, the initializers that were its transposes, by name the order of its axes in each.
TRANSPOSES = "cimc.transposes"


@dataclass
class Candidate:
    """A real initializer, before it is known whether its gradient reaches the loss.

    Attributes:
        value: In the graph.
        uses: All that read it.
        names: What patterns may call it: its own name, those of its transposes, then the layers and nodes that it belongs to.
        behind: Parameters that a crossbar's weight is computed from, by expressions and not as a copy of some entries.
        excluded: Why it does not train; empty: it may.
    """

    value: ir.Value
    uses: list[Use]
    names: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    excluded: str = ""

    @property
    def layers(self) -> list[str]:
        """Layers whose crossbars hold it."""
        held = (use.node.attributes.get_string("layer") for use in self.uses if use.node.op_type == "Vmm" and use.slot == 1)
        return list(dict.fromkeys(held))


def candidates(graph: ir.Graph) -> list[Candidate]:
    """Every real initializer of the main graph, with its uses."""
    found = []
    for value in graph.initializers.values():
        if value.dtype in FLOATS:
            read = uses(value)
            owners = [use.owner for use in read if use.kind in _OWNED]
            found.append(Candidate(value, read, list(dict.fromkeys([str(value.name), *transposes(value), *owners]))))
    return found


def fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a pattern fits one of the names."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def choose(found: Sequence[Candidate], trainable: Sequence[str], frozen: Sequence[str]) -> None:
    """Say of each candidate whether it may train."""
    for one in found:
        one.excluded = _excluded(one, trainable, frozen)


def _excluded(one: Candidate, trainable: Sequence[str], frozen: Sequence[str]) -> str:
    value = one.value
    if value.is_graph_input():
        return "an input of the model has its name: a caller may replace it"
    if statistics := next((use for use in one.uses if use.kind == "statistics"), None):
        return statistics.why
    if fits(one.names, frozen):
        return "frozen"
    if trainable:
        return "" if fits([*one.names, *one.behind], trainable) else "no pattern of what trains names it"
    if not one.uses:
        return "nothing reads it"
    origin = value.metadata_props.get(CONSTANT)
    if origin is not None and not one.layers:
        clear = next((use for use in one.uses if use.kind in _CLEAR and (use.sure or use.kind == "bias")), None)
        if origin != "Constant" or clear is None:
            return "a constant of the model" if origin == "Constant" else f"computed once from constants ({origin})"
    if any(use.node.metadata_props.get(RECIPE) for use in value.uses()) and (value.shape is None or len(value.shape) == 0):
        return "a number that exporters write as a constant"
    if not any(use.trains for use in one.uses):
        return one.uses[0].why
    return ""


def folded(found: Sequence[Candidate], recipes: Recipes, known: Container[str]) -> list[Parameter]:
    """Sources of recipes that are no longer in the graph, but for those that are ``known``."""
    there = {str(one.value.name): one for one in found}
    listed = []
    for name, tensor in recipes.sources.items():
        if name in there or name in known or tensor.dtype not in FLOATS:
            continue
        into = [other for other in there if other in recipes.readers(name)]
        trains = any(not there[other].excluded for other in into)
        fate = "trains in its place" if trains else f"does not train: {there[into[0]].excluded}" if into else "is not used"
        crossbar = any(there[other].layers for other in into)
        shape = tuple(int(size) for size in tensor.shape.numpy())
        why = f"goes into {', '.join(into)}, which {fate}"
        listed.append(Parameter(name=name, where="crossbar" if crossbar else "digital", shape=shape, trains=False, why=why))
    return listed


def rows(found: Sequence[Candidate], trained: Container[str], reached: set[ir.Value]) -> list[Parameter]:
    """The list.

    Args:
        found: From `candidates`.
        trained: Initializers that get an update, by name.
        reached: Values that the loss depends on in any way.
    """
    listed = []
    for one in found:
        name, shape = str(one.value.name), one.value.shape
        trains = name in trained
        why = one.excluded
        if trains:
            why = next((use.why for use in one.uses if use.trains), one.uses[0].why if one.uses else "")
        elif not why:
            why = "only integers or comparisons carry it to the loss" if one.value in reached else "no influence on the loss"
        nodes = list(dict.fromkeys(str(use.node.name) for use in one.uses))
        listed.append(
            Parameter(
                name=name,
                where="crossbar" if one.layers else "digital",
                shape=() if shape is None else tuple(int(size) for size in shape.numpy()),
                trains=trains,
                why=why,
                shared_by=tuple(nodes) if len(nodes) > 1 else (),
            )
        )
        listed += _transposes(one.value, listed[-1])
    return listed


def transposes(value: ir.Value) -> dict[str, list[int]]:
    """Initializers of the user's model that `tie` has replaced by a transpose of this one: the order of its axes in each."""
    found: dict[str, list[int]] = json.loads(value.metadata_props.get(TRANSPOSES, "{}"))
    return found


def _transposes(value: ir.Value, row: Parameter) -> list[Parameter]:
    """Rows of the initializers that `tie` has replaced by a transpose of this one."""
    fate = "trains with it as one parameter" if row.trains else "does not train either"
    return [
        row.model_copy(
            update={"name": name, "shape": tuple(row.shape[axis] for axis in perm), "why": f"the transpose of {row.name}, {fate}"}
        )
        for name, perm in transposes(value).items()
    ]


def in_bodies(graph: ir.Graph) -> list[Parameter]:
    """Real initializers of the bodies of Loop, If and Scan."""
    listed = []
    for node in graph:
        for body in bodies(node):
            for value in body.initializers.values():
                if value.dtype in FLOATS and value.shape is not None:
                    why = f"inside the body of {node.name} ({node.op_type})"
                    shape = tuple(int(size) for size in value.shape.numpy())
                    listed.append(Parameter(name=str(value.name), where="digital", shape=shape, trains=False, why=why))
            listed += in_bodies(body)
    return listed


def reaching(graph: ir.Graph, loss: ir.Value) -> set[ir.Value]:
    """Values that the loss depends on, whatever their type."""
    wanted = {loss}
    for node in reversed(list(graph)):
        if any(value in wanted for value in node.outputs):
            wanted.update(used_values(node))
    return wanted


def notes(found: Sequence[Candidate], listed: Sequence[Parameter]) -> list[str]:
    """What of the list is a guess or may surprise, in words."""
    by_name = {row.name: row for row in listed}
    guessed = []
    for one in found:
        row = by_name[str(one.value.name)]
        clear = any(use.sure or use.kind == "bias" for use in one.uses)
        if one.uses and not clear and (row.trains or one.excluded == one.uses[0].why):
            guessed.append(f"{row.name} {'trains' if row.trains else 'does not train'} ({row.why})")
    told = []
    if guessed:
        more = f", and {len(guessed) - 4} more" if len(guessed) > 4 else ""
        told.append(
            f"guessed by its use: {'; '.join(guessed[:4])}{more}; --plan lists all, --freeze and --trainable decide otherwise"
        )
    for row in listed:
        if row.trains and row.shared_by:
            told.append(f"{row.name} is shared by {', '.join(row.shared_by)} and trains as one (--tie none gives each its own)")
    return told
