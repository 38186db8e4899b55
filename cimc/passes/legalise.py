"""Rewrite what later stages would have to know in several forms, so that they know one; results stay the same.

- Every node gets a name of its own, and a place in the placement report.
- A model of IR version 3, where initializers had to be inputs too, becomes one of version 4; no caller could replace
  them before either.
- Constant nodes become initializers.
"""

from __future__ import annotations

from typing import ClassVar

from cimc.ir.program import Placement
from cimc.passes.base import Compilation, Pass
from cimc.passes.fold import lift_constants
from cimc.passes.selection.placement import all_nodes, name_nodes


class Legalise(Pass):
    """One form for each thing; see the module's text for the list."""

    name: ClassVar[str] = "legalise"

    def call(self, state: Compilation) -> bool:
        model = state.model
        name_nodes(model)
        for node in all_nodes(model):
            name = node.name or ""
            state.placements.setdefault(name, Placement(name=name, op_type=node.op_type, where="digital", why=""))
        changed = False
        if model.ir_version < 4:
            for value in [v for v in model.graph.inputs if v.is_initializer()]:
                model.graph.inputs.remove(value)
            model.ir_version = 4
            changed = True
        return lift_constants(state) or changed
