"""The data that calibration runs on: the user's images, or a synthetic input made for the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.arguments import array
from cimc.errors import DataError
from cimc.ir.samples import keyed
from cimc.passes.pictures import pictures

Array = NDArray[Any]

#: Images of a synthetic input.
IMAGES = 32
#: Guesses at what the model leaves open: an unknown dimension, and height and width of what looks like an image. The first
#: that the model runs on is taken; text recognisers want a certain height, speech models some hundred samples.
GUESSES = ((16, (224, 224)), (512, (48, 320)), (128, (32, 320)), (1024, (64, 256)), (256, (640, 640)))
#: Arrays of a synthetic list.
LENGTH = 2
_OPTION = "--calibration DATA.npz"


@dataclass
class Source:
    """Where calibration takes its input from.

    ``axes`` says along which axis of an input its images lie, None where the input is the same in each run; ``step`` is
    the batch size that the model fixes, None where it takes any.
    """

    images: int
    step: int | None
    axes: dict[str, int | None]
    arrays: Mapping[str, Any] | None = None
    inputs: list[ir.Value] = field(default_factory=list)
    range: tuple[float, float] = (0.0, 1.0)
    guess: int = 0

    @property
    def notes(self) -> list[str]:
        """What had to be assumed of the inputs."""
        return [
            f"input {value.name}: unknown dimension {dim} taken as {size}"
            for value in self.inputs
            for a, (dim, size) in enumerate(zip(value.shape or (), _sizes(value, self.guess), strict=False))
            if not isinstance(dim, int) and a != self.axes[str(value.name)]
        ] + [f"input {value.name}: taken as a list of {LENGTH} arrays" for value in self.inputs if _is_sequence(value.type)]

    def guess_again(self) -> bool:
        """Take other sizes for what the model leaves open; False where nothing is open, or no guess is left."""
        if self.guess + 1 == len(GUESSES) or not self.notes:
            return False
        self.guess += 1
        return True

    @property
    def description(self) -> str:
        """Of a synthetic input, in a few words."""
        shapes = [_sizes(value, self.guess) for value in self.inputs if _is_picture(value)]
        word = "pictures of random blocks" if shapes else "uniform"
        return f"synthetic input: {word}, {self.range[0]:g} to {self.range[1]:g}"

    def feeds(self, chosen: Array) -> dict[str, Any]:
        """Arrays by input name, for one run on the images of these numbers."""
        if self.arrays is not None:
            pairs = ((name, self.arrays[name], axis) for name, axis in self.axes.items())
            return {name: array if axis is None else array.take(chosen, axis) for name, array, axis in pairs}
        return {str(value.name): self._synthetic(value, chosen) for value in self.inputs}

    def _synthetic(self, value: ir.Value, chosen: Array) -> Any:
        name, axis = str(value.name), self.axes[str(value.name)]
        shape = list(_sizes(value, self.guess))
        if axis is None:
            made = draw(value, tuple(shape), self.range, keyed("synthetic", name))
            return [made] * LENGTH if _is_sequence(value.type) else made
        shape[axis] = 1
        parts = [draw(value, tuple(shape), self.range, keyed("synthetic", name, int(image))) for image in chosen]
        return np.concatenate(parts, axis)


def given(model: ir.Model, arrays: Mapping[str, Any]) -> Source:
    """The user's data.

    Raises:
        DataError: Names, dtypes or shapes are not the model's, values are not finite, or there is no image.
    """
    inputs = {str(v.name): v for v in model_inputs(model)}
    wrong = [f"no input {name}" for name in arrays if name not in inputs] + [
        f"{name} is missing" for name in inputs if name not in arrays
    ]
    if wrong:
        raise DataError("; ".join(wrong), where="calibration data", fix=f"the model's inputs are {', '.join(inputs)}")
    fitting = {name: _fitting(inputs[name], arrays[name]) for name in inputs}
    axes, static = image_axes(list(inputs.values()))
    counts = {name: fitting[name].shape[axis] for name, axis in axes.items() if axis is not None}
    images = max(counts.values(), default=1)
    for name, count in list(counts.items()):
        if count != images and name in static and count == static[name]:
            axes[name] = None  # as many as the model wants in each run: the same for all images
            del counts[name]
    if len(set(counts.values())) > 1:
        raise DataError(
            "inputs differ in their number of images: " + ", ".join(f"{name} has {count}" for name, count in counts.items()),
            where="calibration data",
        )
    steps = {static[name] for name in counts if name in static}
    if len(steps) > 1:
        if any(static.get(name, count) != count for name, count in counts.items()):
            raise DataError("the model fixes different batch sizes for its inputs", where="calibration data")
        axes, images, steps = dict.fromkeys(axes), 1, set()
    step = next(iter(steps), None)
    if not images or images < (step or 1):
        raise DataError(f"{images} images, the model takes {step or 1} at a time", where="calibration data")
    return Source(images, step, axes, fitting)


def synthetic(model: ir.Model, span: tuple[float, float] | None) -> Source:
    """Random pictures for what looks like some, uniform numbers for other real inputs, keyed by input name and image.

    Raises:
        DataError: An input is a sparse tensor.
    """
    inputs = model_inputs(model)
    for value in inputs:
        if isinstance(value.type, ir.SparseTensorType):
            raise DataError("no synthetic input is made for sparse tensors", where=f"input {value.name}", fix="--target ideal")
    axes, static = image_axes(inputs)
    steps = set(static.values())
    step = next(iter(steps)) if len(steps) == 1 else None
    if len(steps) > 1:
        axes = {name: None if name in static else axis for name, axis in axes.items()}
    images = IMAGES if step is None else max(1, IMAGES // step) * step
    if all(axis is None for axis in axes.values()):
        images = 1
    return Source(images, step, axes, None, inputs, span or (0.0, 1.0))


def model_inputs(model: ir.Model) -> list[ir.Value]:
    """Inputs of the model that data are given for."""
    return [v for v in model.graph.inputs if str(v.name) not in model.graph.initializers]


def batch_axis(inputs: list[ir.Value]) -> ir.SymbolicDim | None:
    """The first symbol that leads an input's shape, which stands for the images of a run."""
    leads = [v.shape[0] for v in inputs if v.shape is not None and len(v.shape)]
    return next((d for d in leads if not isinstance(d, int) and d.value is not None), None)


def image_axes(inputs: list[ir.Value]) -> tuple[dict[str, int | None], dict[str, int]]:
    """By input: the axis that counts images, and its size where the model fixes it.

    The first symbol that leads a shape is the batch; an input that has it elsewhere (a recurrent state, say) counts its
    images there.
    """
    symbol = batch_axis(inputs)
    axes: dict[str, int | None] = {}
    static: dict[str, int] = {}
    for value in inputs:
        name, shape = str(value.name), value.shape
        if isinstance(value.type, ir.SequenceType | ir.OptionalType):
            axes[name] = None
        elif shape is None:
            axes[name] = 0
        elif symbol is not None and symbol in list(shape):
            axes[name] = list(shape).index(symbol)
        elif not len(shape) or (symbol is not None and isinstance(shape[0], int)):
            axes[name] = None
        else:
            axes[name] = 0
            if isinstance(shape[0], int):
                static[name] = shape[0]
    return axes, static


def _sizes(value: ir.Value, guess: int) -> tuple[int, ...]:
    """The shape with the unknown filled in."""
    shape = list(value.shape or ())
    image = len(shape) == 4 and (shape[1] in (1, 3, 4) or not isinstance(shape[1], int))
    unknown, side = GUESSES[guess]
    guesses = [unknown, 3, *side] if image else [unknown] * len(shape)
    return tuple(dim if isinstance(dim, int) else size for dim, size in zip(shape, guesses, strict=True))


def _is_sequence(kind: ir.TypeProtocol | None) -> bool:
    """A list of tensors, or an optional one."""
    return isinstance(kind, ir.SequenceType) or (isinstance(kind, ir.OptionalType) and _is_sequence(kind.elem_type))


def _is_picture(value: ir.Value) -> bool:
    """Three dimensions or more, of real numbers or bytes."""
    dtype = value.dtype or ir.DataType.FLOAT
    return len(value.shape or ()) > 2 and (dtype.is_floating_point() or dtype == ir.DataType.UINT8)


def draw(value: ir.Value, shape: tuple[int, ...], span: tuple[float, float], rng: np.random.Generator) -> Array:
    """A synthetic input of this shape: pictures, uniform real numbers within ``span``, or integers that its tables have."""
    dtype = value.dtype or ir.DataType.FLOAT
    if dtype == ir.DataType.STRING:
        return np.full(shape, "", object)
    kind = dtype.numpy()
    if _is_picture(value) and 0 not in shape:
        low, high = (0, 255) if dtype == ir.DataType.UINT8 else span
        return (low + (high - low) * pictures(shape, rng).astype(np.float64)).astype(kind)
    if dtype == ir.DataType.BOOL:
        return np.ones(shape, kind)
    if not dtype.is_integer():
        return rng.uniform(*span, shape).astype(kind)
    if dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    top = table_entries(value)
    return np.ones(shape, kind) if top is None else rng.integers(0, top, shape).astype(kind)


def table_entries(value: ir.Value) -> int | None:
    """Entries of the table that an integer input looks up, if it does."""
    sizes = []
    for node, slot in value.uses():
        table = node.inputs[0]
        if node.op_type == "Gather" and slot == 1 and table is not None and table.shape is not None:
            axis = node.attributes.get_int("axis", 0)
            sizes += [d for d in (table.shape[axis],) if isinstance(d, int)]
    return min(sizes, default=None)


def _fitting(value: ir.Value, given: Any) -> Any:
    """What is given for an input, checked: an array; a list of arrays for a sequence; None, too, for an optional one."""
    where = f"calibration data {value.name}"
    if isinstance(value.type, ir.SequenceType | ir.OptionalType) and isinstance(given, list | tuple):
        return [_fit(value, array(element, f"{where}, element {n}")) for n, element in enumerate(given)]
    if isinstance(value.type, ir.SequenceType):
        raise DataError(f"is {type(given).__name__}, the model wants a list of arrays", where=where)
    if given is None and isinstance(value.type, ir.OptionalType):
        return None
    return _fit(value, array(given, where))


def _fit(value: ir.Value, array: Array) -> Array:
    """The array in the input's dtype, checked."""
    name, where = value.name, f"calibration data {value.name}"
    wanted = None if value.dtype is None else np.dtype(object) if value.dtype == ir.DataType.STRING else value.dtype.numpy()
    if wanted is not None and array.dtype != wanted:
        real = value.dtype is not None and value.dtype.is_floating_point() and np.issubdtype(array.dtype, np.floating)
        whole = wanted.kind in "iu" and array.dtype.kind in "iu" and np.can_cast(array.dtype, wanted, "same_kind")
        text = wanted.kind == "O" and array.dtype.kind in "US"
        if not (real or whole or text):
            fix = f"scale it to real numbers first, as x.astype('{wanted}') / 255" if wanted.kind == "f" else None
            raise DataError(f"{array.dtype}, but input {name} is {wanted}", where=where, fix=fix)
        array = array.astype(wanted)
    shape = value.shape
    if shape is not None and (
        array.ndim != len(shape) or any(isinstance(d, int) and d != n for d, n in list(zip(shape, array.shape, strict=True))[1:])
    ):
        wants = "×".join(str(d) if isinstance(d, int) else "?" for d in shape)
        raise DataError(f"shape {'×'.join(map(str, array.shape))}, but input {name} is {wants}", where=where)
    if not array.size:
        raise DataError(f"shape {array.shape} holds no value", where=where)
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DataError("it holds NaN or Inf", where=where)
    return array
