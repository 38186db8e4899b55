"""The model's graph as a drawing: nodes from the top down, each analog, digital or folded."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto

from cimc.ir.graph import step_inputs, step_outputs
from cimc.ir.program import DigitalStep, Program, VmmStep
from cimc.pages.layout import HEIGHT, WIDTH, Layout
from cimc.pages.parts import Box, Drawing, Kind, Section, Table
from cimc.report.drawn import short

#: Nodes of a drawing at most; a larger model is drawn by steps, and of steps the first ones.
MOST_NODES = 250
_LEGEND: tuple[tuple[Kind, int, str], ...] = (
    ("analog", 0, "A: on crossbars"),
    ("digital", 0, "D: digital unit"),
    ("folded", 0, "F: folded away"),
)

#: A node of the drawing: name, label, kind, words; values that it reads and makes.
_Node = tuple[str, str, Kind, str, Sequence[str], Sequence[str]]


def graph_section(program: Program) -> Section:
    """The graph, and a table with the reason of each node."""
    rows = [(one.name, one.op_type, one.where, one.why) for one in program.placements]
    counts = {where: sum(row[2] == where for row in rows) for where in ("analog", "digital", "folded")}
    told = ", ".join(f"{count} {where}" for where, count in counts.items() if count)
    gone = " Folded nodes are no longer in the graph." if counts["folded"] else ""
    table = Table("Where each node of the model runs, and why", ("node", "operator", "where", "why"), rows)
    nodes, cut = _nodes(program)
    drawings = (
        [layered(nodes, f"{told} nodes.{gone}{cut} The reason of each is in its tooltip and in the table.")] if nodes else []
    )
    return Section("Model graph", [], drawings, [], [table] if rows else [])


def _nodes(program: Program) -> tuple[list[_Node], str]:
    """What is drawn, and a sentence where that is not every node."""
    model = ModelProto()
    if "graph" in program.tensors and program.loss is None:
        model = ModelProto.FromString(program.tensors["graph"].tobytes())
    if 0 < len(model.graph.node) <= MOST_NODES:
        places = {one.name: one for one in program.placements}
        found: list[_Node] = []
        for node in model.graph.node:
            one = places.get(node.name)
            where: Kind = one.where if one else "analog" if node.domain == "cimc" else "digital"
            why = one.why if one else "put in by the compiler"
            operator = one.op_type if one else node.op_type
            found.append((node.name, f"{operator}\n{node.name}", where, f"{operator}: {why}", node.input, node.output))
        return found, ""
    steps = program.steps[:MOST_NODES]
    cut = " Drawn by steps: nodes that run together in the digital unit are one box." if steps else ""
    if len(program.steps) > len(steps):
        cut += f" The first {len(steps)} of {len(program.steps)} steps."
    found = []
    for step in steps:
        analog = isinstance(step, VmmStep)
        label = f"{len(step.nodes)} nodes" if isinstance(step, DigitalStep) else step.kind.replace("_", " ")
        kind: Kind = "analog" if analog else "digital"
        label = _size(program, step) if isinstance(step, VmmStep) else label
        found.append((step.name, f"{label}\n{step.name}", kind, label, step_inputs(step), step_outputs(step)))
    return found, cut


def _size(program: Program, step: VmmStep) -> str:
    layer = program.layer(step.layer)
    return f"{layer.rows} × {layer.columns} product"


def layered(nodes: Sequence[_Node], about: str) -> Drawing:
    """The nodes as boxes in rows, and links from each to those that read it."""
    maker = {value: number for number, node in enumerate(nodes) for value in node[5]}
    layout = Layout(
        [sorted({maker[value] for value in node[4] if maker.get(value, number) < number}) for number, node in enumerate(nodes)]
    )
    boxes = [
        Box(*layout.corner(number), WIDTH, HEIGHT, kind, _label(label), f"{name}: {kind}. {why}")
        for number, (name, label, kind, why, _, _) in enumerate(nodes)
    ]
    legend = [entry for entry in _LEGEND if any(box.kind == entry[0] for box in boxes)]
    return Drawing("Model graph", about, layout.width, layout.height, boxes, layout.links(), legend)


def _label(text: str) -> str:
    """Two lines: operator and name."""
    first, _, second = text.partition("\n")
    return f"{short(first, 24)}\n{short(second, 24)}"
