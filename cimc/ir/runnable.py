"""What a program must hold to run, beside the rules that hold at every stage."""

from __future__ import annotations

from typing import NoReturn

import onnx_ir as ir

from cimc.errors import VerifyError
from cimc.ir.graph import step_inputs, step_outputs
from cimc.ir.records import DigitalStep, ProgramRecord, RandomStep, VmmStep
from cimc.ir.self_contained import check_self_contained, parse
from cimc.ir.verify import verify


def verify_runnable(program: ProgramRecord) -> None:
    """Check every rule, that nothing is missing, and that the ONNX models in the program need no file.

    Raises:
        VerifyError: The first rule broken.
    """
    verify(program)
    for layer in program.layers:
        if not layer.row_cuts:
            _fail(f"layer {layer.name}", "it is not cut into blocks")
        if f"weight_max/{layer.name}" not in program.tensors:
            _fail(f"layer {layer.name}", f"no tensor weight_max/{layer.name}")
    if program.loss is None:  # `Chip` refuses to run a training step, whose parameters are values
        _verify_steps(program)
    verify_models(program)


def _verify_steps(program: ProgramRecord) -> None:
    """Check that each step is one of inference and reads what an earlier one makes."""
    made = {value.name for value in program.inputs}
    for step in program.steps:
        if not isinstance(step, DigitalStep | RandomStep | VmmStep):
            _fail(f"step {step.name}", f"a step of kind {step.kind} is one of a training")
        if isinstance(step, RandomStep):
            made.update(step.outputs)
            continue  # it may read an initializer
        if constants := set(step_inputs(step)) - made:  # `verify` knows that they are initializers
            _fail(f"step {step.name}", f"it reads initializer {min(constants)} as a value")
        made.update(step_outputs(step))


def verify_models(program: ProgramRecord) -> None:
    """Check that the graph and the segments are models that hold all their data and suit their steps.

    Raises:
        VerifyError: The first one that does not.
    """
    initializers = program.initializers()
    for value in program.inputs:
        if value.has_default and value.name not in initializers:
            _fail(f"input {value.name}", f"no tensor initializer/{value.name}")
    for step in program.steps:
        if not isinstance(step, DigitalStep):
            continue
        where = f"step {step.name}"
        model = parse(program.tensors[f"segment/{step.name}"], where)
        check_self_contained(model, initializers, where)
        held = {tensor.name for tensor in model.graph.initializer}
        if {value.name for value in model.graph.input} - held - set(step.inputs):
            _fail(where, "its segment has other inputs than the step")
        if not set(step.outputs) <= {value.name for value in model.graph.output}:
            _fail(where, "its segment has other outputs than the step")
    if "graph" not in program.tensors:
        _fail("graph", "the program has no graph")
    graph = parse(program.tensors["graph"], "graph")
    check_self_contained(graph, initializers, "graph")
    if "recipes" in program.tensors:
        check_self_contained(parse(program.tensors["recipes"], "recipes"), initializers, "recipes")
    try:
        ir.from_proto(graph)
    except Exception as error:  # onnx_ir has no one error for a graph that names what is not there
        raise VerifyError("it is no sound ONNX model", where="graph", fix="compile the model again") from error


def _fail(where: str, what: str) -> NoReturn:
    raise VerifyError(what, where=where, fix="compile the model again")
