"""``schedule``: put the steps in an order that runs, and number the stages in which crossbars fire.

Example: in ``x -> conv1 -> relu -> conv2`` with a shortcut ``x -> conv3``, conv1 and conv3 fire in stage 0, conv2 in stage 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cimc.errors import VerifyError
from cimc.ir.graph import task_graph, vmm_stages
from cimc.ir.program import VmmStep
from cimc.ir.verify import verify_order
from cimc.passes.base import Compilation, Pass


class Schedule(Pass):
    """Sets ``stage`` of every crossbar step; the order changes only where it would not run."""

    name: ClassVar[str] = "schedule"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError for steps that wait for each other."""
        import networkx as nx

        graph = task_graph(state.need_program())
        if not nx.is_directed_acyclic_graph(graph):
            cycle = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
            raise VerifyError(f"steps wait for each other: {cycle}", where=f"step {cycle.split(' ')[0]}")

    def call(self, state: Compilation) -> Sequence[str]:
        import networkx as nx

        program = state.need_program()
        graph = task_graph(program)
        stages = vmm_stages(program)
        by_name = {step.name: step for step in program.steps}
        position = {step.name: k for k, step in enumerate(program.steps)}
        ordered = [by_name[name] for name in nx.lexicographical_topological_sort(graph, key=position.__getitem__)]
        steps = tuple(
            step.model_copy(update={"stage": stages[step.name]}) if isinstance(step, VmmStep) else step for step in ordered
        )
        changed = [new.name for new, old in zip(steps, program.steps, strict=True) if new != old]
        if changed:
            state.program = program.model_copy(update={"steps": steps})
        return changed

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a step reads what a later one makes, or fires in too early a stage."""
        verify_order(state.need_program())

    def unchanged(self, state: Compilation) -> str:
        """Steps stand as they are to run."""
        return "the steps are in an order that runs, and each crossbar fires in its stage"
