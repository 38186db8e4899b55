"""The rules of a program's tensors: each belongs to something, and has the dtype, shape and values that this asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import VerifyError
from cimc.ir.encoding import unit_cuts
from cimc.ir.records import BLOCK_FIELDS, FIT_PARTS, Layer, ProgramRecord, output_channels
from cimc.ir.tensor_ref import TensorRef
from cimc.targets.description import Target

Array = NDArray[Any]
Shape = tuple[int, ...]
#: Element types of weights on crossbars and of their products.
WEIGHT_DTYPES = ("float16", "bfloat16", "float32", "float64")
#: Of digital scales and offsets.
_DIGITAL = ("float32", "float64")


@dataclass(frozen=True)
class _State:
    """What one array of a layer's state is."""

    dtype: str
    shape: Callable[[Layer, Target], Shape]
    finite: bool = True
    several: bool = False
    """Whether it has any number of those, along a first axis."""


def _weights(layer: Layer, _: Target) -> Shape:
    return layer.groups, layer.inputs, layer.once.columns


def _goals(layer: Layer, target: Target) -> Shape:
    return layer.groups, layer.inputs, target.planes, layer.once.columns


def _spans(layer: Layer, _: Target) -> Shape:
    return layer.groups, layer.once.columns


def _devices(layer: Layer, target: Target) -> Shape:
    return layer.groups, layer.rows, target.planes, layer.columns


def _units(layer: Layer, target: Target) -> Shape:
    return layer.groups, layer.rows, len(unit_cuts(layer.column_cuts, target)) - 1


#: ``state/LAYER/NAME``; see `cimc.ir.records`.
_STATE = {
    "g_us": _State("float32", _devices),
    "unit_g_us": _State("float32", _units),
    "copies_g_us": _State("float32", _devices, several=True),
    "copies_unit_g_us": _State("float32", _units, several=True),
    "alpha": _State("float64", lambda layer, target: (layer.groups, len(layer.row_cuts) - 1, target.planes, layer.columns)),
    "unit_alpha": _State("float64", lambda layer, _: (layer.groups, len(layer.row_cuts) - 1, layer.columns)),
    "drift_factor": _State(
        "float64", lambda layer, target: (layer.groups, len(layer.row_cuts) - 1, target.planes, layer.columns), several=True
    ),
    "drift_unit_factor": _State(
        "float64", lambda layer, target: (layer.groups, len(layer.row_cuts) - 1, _units(layer, target)[2]), several=True
    ),
    "sites": _State("int32", lambda *_: (len(BLOCK_FIELDS),), several=True),
    "lines": _State("int32", lambda *_: (), several=True),
    "weights": _State("float32", _weights),
    "delta": _State("float32", _weights),
    "written_us": _State("float32", _goals, finite=False),
    "updates": _State("uint32", _weights),
    "writes": _State("uint32", _devices),
    "pulses": _State("uint32", _devices),
    "w_max": _State("float32", _spans),
    "factor": _State("float32", _spans),
}
#: ``state/NAME`` of the whole chip: entries, and the values that they lie below. Each is int64 and not negative.
_CHIP_STATE = {"seed": (1, 1 << 63), "noise_seed": (1, 1 << 63), "draws": (3, 1 << 48), "images": (1, 1 << 62)}
#: ``state/LAYER/PREFIX.NAME``: what a device model keeps beside conductances, any numbers.
_KEPT = {
    "device": _State("", _devices),
    "unit_device": _State("", _units),
    "copies_device": _State("", _devices, several=True),
    "copies_unit_device": _State("", _units, several=True),
}
#: Before the names of what an update rule keeps, numbers of any shape; the rule looks at them when it takes them up.
_RULE = "rule"
_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = frozenset(kind.numpy().name for kind in ir.DataType if kind not in (ir.DataType.UNDEFINED, ir.DataType.STRING))
_WORDS = ("initializer", "segment", "bound", "graph", "recipes", "blocks", "weight_max", "scale", "offset", "state")
#: Tensors without an owner behind a slash.
_WHOLE = ("graph", "recipes")


def verify_tensors(program: ProgramRecord) -> None:
    """Check every tensor that is there.

    Raises:
        VerifyError: A tensor of nothing in the program, of another dtype or shape than the program asks for, or with values
            that no chip can hold.
    """
    layers = {layer.name: layer for layer in program.layers}
    steps = {step.name for step in program.steps}
    digital = {step.name for step in program.steps if step.kind == "digital"}
    owners: dict[str, Mapping[str, Any] | set[str]] = {
        "segment": digital, "blocks": layers, "weight_max": layers, "scale": steps - digital, "offset": steps - digital,
        "bound": set(program.bound),
    }  # fmt: skip
    for name, tensor in program.tensors.items():
        word, _, owner = name.partition("/")
        if word not in _WORDS or (word not in _WHOLE) != bool(owner) or owner not in owners.get(word, {owner}):
            _fail(name, "it belongs to nothing in the program")
        match word:
            case "segment" | "graph" | "recipes":
                _need(name, tensor, ("uint8",), (tensor.size,))
            case "weight_max":
                layer = layers[owner]
                _need(name, tensor, _DIGITAL, (1,) if tensor.shape == (1,) else (layer.groups * layer.columns,))
                _need_finite(name, tensor, least=0)
            case "scale" | "offset":
                _need(name, tensor, _DIGITAL, tensor.shape)  # `verify` knows the shape
                _need_finite(name, tensor)
    verify_state(program, {name: tensor for name, tensor in program.tensors.items() if name.startswith("state/")})
    for name in program.bound:
        if f"bound/{name}" not in program.tensors:
            _fail(f"bound/{name}", "it is missing")
    for weights in {layer.weight.tensor for layer in program.layers}:
        name = f"initializer/{weights}"
        if name in program.tensors:
            _need(name, program.tensors[name], WEIGHT_DTYPES, program.tensors[name].shape)
            _need_finite(name, program.tensors[name])


def verify_state(program: ProgramRecord, state: Mapping[str, Array]) -> None:
    """Check tensors of a chip of the program.

    Args:
        program: Compiled; its own tensors are not looked at.
        state: By their whole names, ``state/...``.

    Raises:
        VerifyError: As of `verify_tensors`.
    """
    layers = {layer.name: layer for layer in program.layers}
    for name, tensor in state.items():
        word, _, owner = name.partition("/")
        if word != "state" or not owner:
            _fail(name, "it belongs to no chip")
        if owner.rpartition("/")[2] in FIT_PARTS:
            _fit(program, state, name, owner, layers)
        else:
            _state(name, owner, tensor, layers, program.target)


def is_dtype(name: str) -> bool:
    """Whether numpy or ml_dtypes have an element type of this name."""
    return name in _DTYPES


def finite(array: Array) -> bool:
    """Whether no element is NaN or infinite; nothing as large as the array is made."""
    if array.dtype.kind in "biu" or not array.size:
        return True
    with np.errstate(invalid="ignore"):
        return isfinite(float(array.min())) and isfinite(float(array.max()))


def _state(name: str, owner: str, tensor: Array, layers: Mapping[str, Layer], target: Target) -> None:
    if owner in _CHIP_STATE:
        count, below = _CHIP_STATE[owner]
        _need(name, tensor, ("int64",), (count,))
        if tensor.min() < 0 or int(tensor.max()) >= below:
            _fail(name, f"its values are not from 0 to {below - 1}")
        return
    if owner == "time_s":
        _need(name, tensor, ("float64",), (1,))
        _need_finite(name, tensor, least=0)
        return
    layer, _, word = owner.rpartition("/")
    prefix, _, kept = word.partition(".")
    if layer in layers and prefix == _RULE and kept:
        _need(name, tensor, _NUMBERS, tensor.shape)
        _need_finite(name, tensor)
        return
    rule = _KEPT.get(prefix) if kept else _STATE.get(word)
    if layer not in layers or rule is None:
        _fail(name, "it belongs to nothing in the program")
    shape = rule.shape(layers[layer], target)
    _need(name, tensor, (rule.dtype,) if rule.dtype else _NUMBERS, (*tensor.shape[:1], *shape) if rule.several else shape)
    if rule.finite:
        _need_finite(name, tensor, least=0 if word.endswith("g_us") or word in ("w_max", "factor", "sites", "lines") else None)


def _fit(program: ProgramRecord, state: Mapping[str, Array], name: str, owner: str, layers: Mapping[str, Layer]) -> None:
    """What was fitted to a step's outputs: a scale and an offset together, of a chip that the program holds."""
    owner = owner.rpartition("/")[0]
    step = next((step for step in program.vmm_steps if step.name == owner), None)
    if step is None or step.layer not in layers:
        _fail(name, "it belongs to nothing in the program")
    missing = [f"state/{owner}/{part}" for part in FIT_PARTS if f"state/{owner}/{part}" not in state]
    missing += [other for other in ("state/seed", f"state/{step.layer}/g_us") if other not in state]
    if missing:
        _fail(name, f"it is of a chip, but {missing[0]} is missing")
    _need(name, state[name], ("float64",), (output_channels(step, layers[step.layer]),))
    _need_finite(name, state[name])


def _need(name: str, tensor: Array, dtypes: tuple[str, ...], shape: Shape) -> None:
    if tensor.dtype.name not in dtypes or tensor.shape != shape:
        _fail(name, f"it is {tensor.dtype.name}{list(tensor.shape)}, not {' or '.join(dtypes)}{list(shape)}")


def _need_finite(name: str, tensor: Array | TensorRef, least: float | None = None) -> None:
    if isinstance(tensor, TensorRef):
        return  # its values are not there
    if not finite(tensor):
        _fail(name, "it holds NaN or an infinite value")
    if least is not None and tensor.size and tensor.min() < least:
        _fail(name, f"it holds {tensor.min()}, which is below {least}")


def _fail(name: str, what: str) -> NoReturn:
    raise VerifyError(what, where=f"tensor {name}", fix="compile the model again")
