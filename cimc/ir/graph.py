"""The task graph of a program, as a networkx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cimc.ir.records import (
    DigitalStep,
    OuterStep,
    PoolBackwardStep,
    ProgramRecord,
    RandomStep,
    Step,
    UpdateStep,
    VmmBackwardStep,
    VmmStep,
)

if TYPE_CHECKING:
    import networkx as nx

    TaskGraph = nx.DiGraph[str]


def step_inputs(step: Step) -> tuple[str, ...]:
    """Names of the values that a step reads."""
    match step:
        case DigitalStep() | UpdateStep():
            return step.inputs
        case VmmBackwardStep():
            return (step.input, step.activation)
        case PoolBackwardStep():
            return (step.input, step.activation, step.pooled)
        case OuterStep():
            return (step.input, step.gradient)
        case RandomStep():
            return () if step.input is None else (step.input,)
        case _:
            return (step.input,)


def step_outputs(step: Step) -> tuple[str, ...]:
    """Names of the values that a step makes."""
    match step:
        case DigitalStep() | RandomStep():
            return step.outputs
        case UpdateStep():
            return ()
        case _:
            return (step.output,)


def task_graph(program: ProgramRecord) -> TaskGraph:
    """Steps by name; an edge from the step that makes a value to each that reads it, with the value's name as ``value``."""
    import networkx as nx

    graph: TaskGraph = nx.DiGraph()
    graph.add_nodes_from(step.name for step in program.steps)
    maker = {value: step.name for step in program.steps for value in step_outputs(step)}
    for step in program.steps:
        for value in step_inputs(step):
            if value in maker:
                graph.add_edge(maker[value], step.name, value=value)
    return graph


def vmm_stages(program: ProgramRecord) -> dict[str, int]:
    """By crossbar step, the number of crossbar steps on the longest way to it; networkx raises where there is a cycle."""
    import networkx as nx

    graph = task_graph(program)
    analog = {step.name for step in program.steps if isinstance(step, VmmStep)}
    done: dict[str, int] = {}
    for name in nx.topological_sort(graph):
        before = (done[other] + (other in analog) for other in graph.predecessors(name))
        done[name] = max(before, default=0)
    return {name: done[name] for name in done if name in analog}
