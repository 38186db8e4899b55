"""Names for the user's nodes, and where each of them went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from cimc.ir.bodies import bodies
from cimc.ir.program import Placement
from cimc.passes.base import Compilation

#: Metadata of a node that a pass put in: the name of the user's node it belongs to.
OWNER = "cimc.node"


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes of the main graph and of every body in it."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own: reports, layers and errors speak of nodes by name."""
    taken: set[str] = set()
    unnamed = []
    for node in all_nodes(model):
        if node.name and node.name not in taken:
            taken.add(node.name)
        else:
            unnamed.append(node)
    for node in unnamed:
        base, count = node.name or node.op_type, 1
        name = base if node.name is None or not node.name else f"{base}_2"
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name


def record(state: Compilation, node: ir.Node, where: Literal["analog", "digital", "folded"], why: str) -> None:
    """Say where a user's node went. Nodes that a pass put in are part of their owner, which has a place already."""
    name = node.name or ""
    known = state.placements.get(name)
    if known is None and node.metadata_props.get(OWNER, name) != name:
        return
    state.placements[name] = Placement(name=name, op_type=known.op_type if known else node.op_type, where=where, why=why)


def body_placements(state: Compilation) -> None:
    """Nodes within the bodies of Loop, If and Scan stay digital."""
    for parent in state.model.graph:
        why = f"inside the body of '{parent.name}' ({parent.op_type}): control flow runs on the digital unit"
        for body in bodies(parent):
            for node in ir.traversal.RecursiveGraphIterator(body):
                record(state, node, "digital", why)
