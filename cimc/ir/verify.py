"""The rules of the target IR. What a stage has not set yet is not checked: cuts before `tile`, places before `place`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import NoReturn

import numpy as np

from cimc.errors import VerifyError
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.graph import step_inputs, step_outputs
from cimc.ir.records import (
    DigitalStep,
    Layer,
    MaskStep,
    OuterStep,
    PoolBackwardStep,
    ProgramRecord,
    RandomStep,
    UpdateStep,
    ValueSpec,
    VmmBackwardStep,
    VmmStep,
)
from cimc.ir.verify_blocks import verify_blocks
from cimc.ir.verify_random import verify_random
from cimc.ir.verify_tensors import WEIGHT_DTYPES, is_dtype, verify_tensors


def verify(program: ProgramRecord) -> None:
    """Check every rule.

    Raises:
        VerifyError: The first rule broken; it names the step or layer and what to do.
    """
    _unique("layer", (layer.name for layer in program.layers))
    _unique("step", (step.name for step in program.steps))
    _unique("input", (value.name for value in program.inputs))
    for value in (*program.inputs, *program.outputs):
        _value(value)
    for layer in program.layers:
        _weights(program, layer)
    verify_order(program)
    layers = {layer.name: layer for layer in program.layers}
    for step in program.steps:
        if isinstance(step, DigitalStep):
            if f"segment/{step.name}" not in program.tensors:
                _fail(f"step {step.name}", f"no tensor segment/{step.name}", "store the segment's ONNX model under that name")
        elif isinstance(step, UpdateStep):
            _update(program, step, layers)
        elif isinstance(step, RandomStep):
            verify_random(step)
        elif not isinstance(step, MaskStep | PoolBackwardStep):
            if step.layer not in layers:
                _fail(f"step {step.name}", f"no layer {step.layer}", f"name one of: {', '.join(list(layers)[:8])}")
            _vmm(program, step, layers[step.layer])
    _training(program)
    verify_tensors(program)
    verify_blocks(program)


def _fail(where: str, what: str, fix: str) -> NoReturn:
    raise VerifyError(what, where=where, fix=fix)


def _unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _fail(f"{kind} {name}", f"two {kind}s have this name", "give each its own")
        seen.add(name)


def _value(value: ValueSpec) -> None:
    """dtype and range of a graph input or output."""
    if value.dtype not in ("", "string") and not is_dtype(value.dtype):
        _fail(f"value {value.name}", f"no dtype is called {value.dtype!r}", "name one of numpy or ml_dtypes")
    if value.range is not None and value.range[0] > value.range[1]:
        _fail(f"value {value.name}", f"its range {value.range} begins above its end", "correct the range")


def verify_order(program: ProgramRecord) -> None:
    """Check the order of the steps, and their stages once they are scheduled.

    Raises:
        VerifyError: A value is used before it is made, made twice, or not at all; a step fires too early.
    """
    _values(program)
    _stages(program)


def _values(program: ProgramRecord) -> None:
    """Every value is made once and before it is used; every output is made."""
    made = {value.name for value in program.inputs}
    kept = {name.removeprefix("initializer/") for name in program.tensors if name.startswith("initializer/")}
    ever = {value for step in program.steps for value in step_outputs(step)}
    for step in program.steps:
        for value in step_inputs(step):
            if value not in made and value not in kept:
                fix = "move the step behind the one that makes it" if value in ever else "add a step that makes it"
                _fail(f"step {step.name}", f"value {value} is used before it is made", fix)
        for value in step_outputs(step):
            if value in made:
                _fail(f"step {step.name}", f"value {value} is made a second time", "give the output its own name")
            made.add(value)
    for output in program.outputs:
        if output.name not in made and output.name not in kept:
            _fail(f"output {output.name}", "no step makes it", "add a step that makes it, or drop the output")


def _stages(program: ProgramRecord) -> None:
    """Once scheduled (a stage above 0 is there), a step fires in a later stage than those it waits for."""
    if not any(step.stage for step in program.vmm_steps):
        return
    latest: dict[str, int] = {}
    for step in program.steps:
        stage = max((latest.get(value, -1) for value in step_inputs(step)), default=-1)
        if isinstance(step, VmmStep):
            if step.stage <= stage:
                what = f"stage {step.stage}, but it waits for a step of stage {stage}"
                _fail(f"step {step.name}", what, "run pass `schedule` again")
            stage = step.stage
        for value in step_outputs(step):
            latest[value] = stage


def _weights(program: ProgramRecord, layer: Layer) -> None:
    where, view = f"layer {layer.name}", layer.weight
    tensor = program.tensors.get(f"initializer/{view.tensor}")
    if tensor is None:
        _fail(where, f"no tensor initializer/{view.tensor}", "keep the model's weights under the initializer's own name")
    rank = len(view.index)
    if rank > tensor.ndim or any(not 0 <= i < size for i, size in zip(view.index, tensor.shape[:rank], strict=False)):
        _fail(where, f"index {view.index} is outside of {view.tensor} {tensor.shape}", "correct weight.index")
    left = tensor.shape[rank:]
    if prod(left) != prod(view.split) or sorted(view.perm) != list(range(len(view.split))):
        _fail(where, f"split {view.split}, perm {view.perm} do not view {left}", "correct weight.split and weight.perm")
    if prod(view.shape) != prod(view.split) or min(view.shape) < 1:
        _fail(where, f"matrix {view.shape} does not hold the {prod(view.split)} weights of {view.tensor}", "correct weight.shape")
    if view.shape[0] % layer.group_packing:
        what = f"{view.shape[0]} groups do not divide into packs of {layer.group_packing}"
        _fail(where, what, "choose a group_packing that divides the groups")
    if view.shape[1] % layer.channel_rows:
        what = f"{view.shape[1]} rows are no multiple of {layer.channel_rows} rows a channel"
        _fail(where, what, "correct channel_rows")
    weight_max = program.tensors.get(f"weight_max/{layer.name}")
    channels = layer.groups * layer.columns
    if weight_max is not None and weight_max.shape not in ((1,), (channels,)):
        _fail(where, f"weight_max has shape {weight_max.shape}", f"give one for the layer, or one for each of {channels} columns")


def _update(program: ProgramRecord, step: UpdateStep, layers: Mapping[str, Layer]) -> None:
    """A layer gets its own outer products, a digital initializer is a parameter; a new value stands alone."""
    where = f"step {step.name}"
    if not step.inputs or (step.action == "assign" and len(step.inputs) != 1):
        _fail(where, f"{len(step.inputs)} inputs", "give the gradients of one parameter, or one new value")
    if step.layer is None:
        if step.parameter not in program.parameters:
            _fail(where, f"{step.parameter} is no parameter of the program", "name it in parameters")
        return
    layer = layers.get(step.layer)
    if layer is None or layer.weight.tensor != step.parameter:
        _fail(where, f"layer {step.layer} does not hold {step.parameter}", "name the layer's own initializer")
    products = {s.output: s.layer for s in program.steps if isinstance(s, OuterStep)}
    for value in step.inputs:
        if products.get(value) != step.layer:
            _fail(where, f"{value} is no outer product of layer {step.layer}", "give values that outer steps of the layer make")


def _training(program: ProgramRecord) -> None:
    """Parameters have data and one update at most; loss and labels are an output and an input."""
    for name in program.parameters:
        if f"initializer/{name}" not in program.tensors:
            _fail(f"parameter {name}", f"no tensor initializer/{name}", "keep its first value under the initializer's own name")
    updates = (s for s in program.steps if isinstance(s, UpdateStep))
    _unique("update of", (s.parameter if s.layer is None else f"layer {s.layer}" for s in updates))
    for word, wanted, values in (("loss", program.loss, program.outputs), ("labels", program.labels, program.inputs)):
        if wanted is not None and wanted not in {value.name for value in values}:
            _fail(word, f"there is no such value as {wanted}", "name an output for the loss, an input for the labels")


def _vmm(program: ProgramRecord, step: VmmStep | VmmBackwardStep | OuterStep, layer: Layer) -> None:
    """The geometry suits the layer's matrix; scale and offset have one entry for each output channel."""
    where, geometry = f"step {step.name}", step.geometry
    if isinstance(step, VmmStep) and step.dtype not in WEIGHT_DTYPES:
        _fail(where, f"its outputs are {step.dtype}", f"make them one of {', '.join(WEIGHT_DTYPES)}")
    groups, rows, columns = layer.weight.shape
    channels = groups * columns
    if isinstance(geometry, Dense):
        for name in ("input_perm", "output_perm"):
            perm = getattr(geometry, name)
            if sorted(perm) != list(range(len(perm))):
                _fail(where, f"{name} {perm} is no permutation", "name every axis once")
        if not 0 <= geometry.kept <= len(geometry.input_perm):
            _fail(where, f"{geometry.kept} kept axes of {len(geometry.input_perm)}", "correct geometry.kept")
        if prod(geometry.output_dims) != channels or len(geometry.output_perm) != geometry.kept + len(geometry.output_dims):
            _fail(
                where, f"outputs {geometry.output_dims} do not hold the {channels} columns of {layer.name}", "correct output_dims"
            )
    else:
        taps, rank = prod(geometry.kernel_shape), len(geometry.kernel_shape)
        pads = (2 * rank,) if geometry.auto_pad == "NOTSET" else (0, 2 * rank)
        if not rank or len(geometry.strides) != rank or len(geometry.dilations) != rank or len(geometry.pads) not in pads:
            _fail(where, f"strides, dilations or pads do not suit a kernel of {rank} axes", "give one a side and axis")
        if isinstance(geometry, Conv) and rows % taps:
            _fail(where, f"a kernel of {taps} taps does not fit the {rows} rows of {layer.name}", "correct kernel_shape")
        if isinstance(geometry, ConvTranspose):
            explicit = geometry.explicit_output
            if len(geometry.output_padding) != rank or (explicit is not None and len(explicit) != rank):
                _fail(where, f"output_padding or explicit_output do not suit a kernel of {rank} axes", "give one an axis")
            if columns % taps:
                _fail(
                    where, f"a kernel of {taps} taps does not fit the {columns} columns of {layer.name}", "correct kernel_shape"
                )
            channels //= taps
    for name in ("scale", "offset"):
        tensor = program.tensors.get(f"{name}/{step.name}")
        if tensor is not None and (tensor.shape != (channels,) or tensor.dtype not in (np.float32, np.float64)):
            what = f"{name} is {tensor.dtype} {tensor.shape}"
            _fail(where, what, f"give float32 or float64, one for each of {channels} output channels")
