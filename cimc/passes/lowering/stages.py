"""Cut a graph into stages: digital work, then the crossbars that it feeds, then digital work again.

A digital node's stage is the highest of its inputs'; a crossbar's output belongs to the stage after. So all digital nodes
of one stage can run as one segment, and a network needs no more segments than crossbars lie one behind another.
What is said of crossbars holds for every node that becomes a step by itself, backward products and dropout masks too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from cimc.ir.bodies import used_values
from cimc.ir.dialect import DOMAIN
from cimc.passes.lowering.random import is_random


def is_own(node: ir.Node) -> bool:
    """Whether the node becomes a step by itself: all of the dialect's do, and random operators."""
    return node.domain == DOMAIN or is_random(node)


def node_stages(nodes: Sequence[ir.Node], products: Mapping[ir.Node, ir.Value], late: bool = False) -> list[int]:
    """The stage of each node.

    Args:
        nodes: In topological order.
        products: What each node that is a step by itself makes; a Vmm, behind all that is merged into it.
        late: Put digital nodes into the first stage that reads them, not into the first that can. In a training step a
            backward node that needs forward values alone would else run early and hand its result through all stages.
    """
    stage_of: dict[ir.Value, int] = {}
    stages = []
    for node in nodes:
        stage = max((stage_of.get(value, 0) for value in used_values(node)), default=0)
        stages.append(stage)
        if node in products:
            stage_of.update(dict.fromkeys((*node.outputs, products[node]), stage + 1))
        else:
            stage_of.update(dict.fromkeys(node.outputs, stage))
    return _sunk(nodes, products, stages) if late else stages


def _sunk(nodes: Sequence[ir.Node], products: Mapping[ir.Node, ir.Value], stages: Sequence[int]) -> list[int]:
    read_at: dict[ir.Value, int] = {}
    sunk = list(stages)
    for number in range(len(nodes) - 1, -1, -1):
        node = nodes[number]
        reads = [read_at[value] for value in node.outputs if value in read_at]
        if node not in products and reads and not any(value.is_graph_output() for value in node.outputs):
            sunk[number] = min(reads)
        for value in used_values(node):
            read_at[value] = min(read_at.get(value, sunk[number]), sunk[number])
    return sunk
