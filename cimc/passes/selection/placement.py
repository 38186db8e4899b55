"""Names for the user's nodes, and where each of them went."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from cimc.ir.bodies import bodies, used_values
from cimc.ir.names import Names
from cimc.ir.program import Placement
from cimc.passes.base import Compilation

#: Metadata of a node that a pass put in: the name of the user's node it belongs to.
OWNER = "cimc.node"

log = logging.getLogger(__name__)


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes of the main graph and of every body in it."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own: reports, layers and errors speak of nodes by name."""
    given: set[str] = set()
    unnamed = []
    for node in all_nodes(model):
        if node.name and node.name not in given:
            given.add(node.name)
        else:
            unnamed.append(node)
    names = Names(given)
    for node in unnamed:
        node.name = names.fresh(node.name or node.op_type, numbered=bool(node.name))


def place_all(state: Compilation) -> None:
    """Give every node a place, in the model's order, where it has none."""
    for node in all_nodes(state.model):
        name = node.name or ""
        state.placements.setdefault(name, Placement(name=name, op_type=node.op_type, where="digital", why=""))


def record(state: Compilation, node: ir.Node, where: Literal["analog", "digital", "folded"], why: str) -> None:
    """Say where a user's node went. Nodes that a pass put in are part of their owner, which has a place already."""
    name = node.name or ""
    known = state.placements.get(name)
    if known is None and node.metadata_props.get(OWNER, name) != name:
        return
    row = Placement(name=name, op_type=known.op_type if known else node.op_type, where=where, why=why)
    log.info("node '%s' (%s): %s: %s", row.name, row.op_type, row.where, row.why)
    state.placements[name] = row


def body_placements(state: Compilation) -> None:
    """Nodes within the bodies of Loop, If and Scan stay digital."""
    for parent in state.model.graph:
        for body in bodies(parent):
            why = f"inside the body of '{parent.name}' ({parent.op_type}): {why_control_flow(parent)}"
            for node in ir.traversal.RecursiveGraphIterator(body):
                record(state, node, "digital", why)


def why_control_flow(node: ir.Node) -> str:
    """Why a node with bodies runs on the digital unit, and what makes its condition a constant, where something does."""
    why = "control flow runs on the digital unit"
    if node.op_type != "If":
        return why
    values, sizes, seen = set[str](), set[str](), set[ir.Node]()
    todo = [node.inputs[0]]
    while todo:
        value = todo.pop()
        producer = value.producer() if value is not None else None
        if value is not None and value.is_graph_input():
            values.add(str(value.name))
        elif producer is not None and producer not in seen:
            seen.add(producer)
            if producer.op_type in ("Shape", "Size"):
                sizes |= _sources(producer)
            else:
                todo += used_values(producer)
    ways = [f"--bind {name}=VALUE" for name in sorted(values)] + [f"--shape {name}=SIZE,…" for name in sorted(sizes - values)]
    return f"{why}; {' and '.join(ways)} would make its condition a constant" if ways else why


def _sources(node: ir.Node) -> set[str]:
    """Inputs of open sizes that a value follows from."""
    found, seen, todo = set[str](), set[ir.Node](), [node]
    while todo:
        for value in used_values(todo.pop()):
            producer = value.producer()
            if value.is_graph_input() and (value.shape is None or not value.shape.is_static()):
                found.add(str(value.name))
            elif producer is not None and producer not in seen:
                seen.add(producer)
                todo.append(producer)
    return found
