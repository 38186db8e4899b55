"""`schedule`: order and stages."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import VerifyError
from cimc.ir.graph import task_graph
from cimc.ir.program import DigitalStep, Program, Step, ValueSpec, VmmStep
from cimc.passes.schedule import Schedule
from tests.ir.crossbar_programs import BULK, Matrix, chain, changed, through
from tests.passes.program_text import layer_text, new_lines, program

LAYER = chain(BULK, [Matrix("layer", 4, 4)])


def _program(edges: dict[str, tuple[str, ...]]) -> Program:
    """Steps by name, in this order, with the steps they read; names that begin with ``d`` are digital, ``x0`` is the input."""
    steps: list[Step] = []
    for name, reads in edges.items():
        if name.startswith("d"):
            steps.append(DigitalStep(name=name, inputs=reads, outputs=(name,), nodes=(name,)))
        else:
            (read,) = reads
            steps.append(LAYER.vmm_steps[0].model_copy(update={"name": name, "input": read, "output": name}))
    segments = {f"segment__{name}": np.zeros(0, np.uint8) for name in edges if name.startswith("d")}
    outputs = (ValueSpec(name=list(edges)[-1], dtype="float32", shape=None),)
    return changed(LAYER, **segments).model_copy(update={"steps": tuple(steps), "outputs": outputs})


def _stages(program: Program) -> dict[str, int]:
    return {step.name: step.stage for step in program.vmm_steps}


def test_text() -> None:
    """The second of two layers fires after the first."""
    (line,) = new_lines(program(layer_text("a", 4, 4, "x", "h"), layer_text("b", 4, 4, "h", "y")), Schedule())
    assert line.startswith("%y = vmm @b(%h)")
    assert line.endswith("stage=1}")


def test_the_example_of_the_docstring() -> None:
    edges = {"conv1": ("x0",), "drelu": ("conv1",), "conv2": ("drelu",), "conv3": ("x0",), "dadd": ("conv2", "conv3")}
    assert _stages(through(_program(edges), [Schedule])) == {"conv1": 0, "conv2": 1, "conv3": 0}


def test_an_order_that_runs_stays() -> None:
    edges = {"conv3": ("x0",), "conv1": ("x0",), "conv2": ("conv1",), "dadd": ("conv2", "conv3")}
    assert [step.name for step in through(_program(edges), [Schedule]).steps] == list(edges)


def test_an_order_that_does_not_run_is_mended() -> None:
    program = _program({"v2": ("v1",), "v1": ("x0",), "dlast": ("v2",)})
    assert [step.name for step in through(program, [Schedule]).steps] == ["v1", "v2", "dlast"]


def test_steps_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(VerifyError, match="wait for each other: v"):
        through(_program({"v1": ("v2",), "v2": ("v1",)}), [Schedule])


def test_the_task_graph_names_the_values() -> None:
    graph = task_graph(_program({"v1": ("x0",), "d2": ("v1", "x0")}))
    assert list(graph.edges(data="value")) == [("v1", "d2", "v1")]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_steps_of_one_stage_do_not_depend_on_each_other(data: st.DataObject) -> None:
    edges: dict[str, tuple[str, ...]] = {}
    for k in range(data.draw(st.integers(1, 10))):
        digital = data.draw(st.booleans())
        reads = data.draw(st.lists(st.sampled_from(["x0", *edges]), min_size=1, max_size=3 if digital else 1, unique=True))
        edges[f"{'d' if digital else 'v'}{k}"] = tuple(reads)
    program = through(_program(edges), [Schedule])
    stages = _stages(program)
    reach = nx.transitive_closure_dag(task_graph(program))
    assert all(stages[a] < stages[b] for a, b in reach.edges if a in stages and b in stages)
    used = {step.stage for step in program.steps if isinstance(step, VmmStep)}
    assert used == set(range(len(used)))
