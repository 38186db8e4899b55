"""Inputs of a graph that become constants, and inputs whose sizes are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.arguments import array, named
from cimc.errors import CimcError
from cimc.ir.onnx_io import MOST_BYTES, is_plain
from cimc.passes.recipes import CONSTANT

Array = NDArray[Any]


def bind_inputs(graph: ir.Graph, bind: Mapping[str, Any]) -> dict[str, Array]:
    """Make inputs constants.

    Args:
        graph: Changed in place.
        bind: Values by input name; None: the default of each input that the name fits as a pattern.

    Returns:
        The given values by name, in their inputs' dtypes and shapes; not the defaults.

    Raises:
        CimcError: No such input, no tensor of numbers, or a value of another type or shape.
    """
    bound: dict[str, Array] = {}
    for name, given in bind.items():
        inputs = {str(value.name): value for value in graph.inputs}
        if given is None:
            with_default = {key: value for key, value in inputs.items() if value.is_initializer()}
            defaults = [value for key, value in with_default.items() if key == name or fnmatchcase(key, name)]
            if not defaults:
                known = ", ".join(with_default) or "none"
                _refuse(name, "no input of this name has a default", f"give a value; inputs with a default: {known}")
            for value in defaults:
                graph.inputs.remove(value)
            continue
        value = inputs[named(name, inputs, "input")]
        bound[name] = _fitting(value, given)
        value.const_value = ir.Tensor(bound[name], name=name)
        value.shape = ir.Shape(bound[name].shape)
        graph.inputs.remove(value)
        if not value.is_initializer():
            graph.register_initializer(value)
        value.metadata_props[CONSTANT] = "a bound input"
    return bound


def fix_shapes(graph: ir.Graph, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Fix sizes of inputs; a size that has a name is the same wherever inputs and outputs have that name.

    Raises:
        CimcError: No such input, another rank, another size than the model fixes, or two sizes for one name.
    """
    inputs = {str(value.name): value for value in graph.inputs}
    sizes: dict[str, int] = {}
    for name, wanted in shapes.items():
        value = inputs[named(name, inputs, "input")]
        if not isinstance(value.type, ir.TensorType | type(None)):
            _refuse(name, "it is no tensor, so it has no sizes", "leave it out")
        stated = list(value.shape) if value.shape is not None else [None] * len(wanted)
        if len(stated) != len(wanted):
            _refuse(
                name,
                f"{len(wanted)} sizes, but it has {len(stated)} axes: {_told(value)}",
                "give one an axis, ? to leave it open",
            )
        for have, size in zip(stated, wanted, strict=True):
            if size is None:
                continue
            if size < 0 or (isinstance(have, int) and have != size):
                _refuse(name, f"a size of {size} where the model has {_told(value)}", "sizes that the model fixes stay")
            symbol = have.value if isinstance(have, ir.SymbolicDim) else None
            if symbol is not None and sizes.setdefault(symbol, size) != size:
                _refuse(name, f"'{symbol}' is {sizes[symbol]} and {size}", "one size for each name")
        if prod(size or 1 for size in wanted) * (value.dtype or ir.DataType.FLOAT).itemsize > MOST_BYTES:
            _refuse(name, f"it would take more than {MOST_BYTES / 1e9:.3g} GB for one image", "give smaller sizes")
        value.shape = ir.Shape([_dim(have) if size is None else size for have, size in zip(stated, wanted, strict=True)])
    for value in (*graph.inputs, *graph.outputs) if sizes else ():
        if value.shape is not None:
            dims = [sizes.get(d.value or "", d.value) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
            value.shape = ir.Shape(dims)


def _dim(dim: int | ir.SymbolicDim | None) -> int | str | None:
    return dim.value if isinstance(dim, ir.SymbolicDim) else dim


def _fitting(value: ir.Value, given: Any) -> Array:
    """The value in the dtype and with the rank of its input."""
    name = str(value.name)
    if not isinstance(value.type, ir.TensorType | type(None)) or value.dtype is None or not is_plain(value.dtype):
        _refuse(name, f"it is {value.type}, and only tensors of numbers can be bound", "leave it an input")
    found, wanted = array(given, f"bind, input {name}"), value.dtype.numpy()
    if found.dtype.kind not in "biuf":
        _refuse(name, f"{_short(found)} is no number and no array of numbers", f"it is {wanted}: {_told(value)}")
    with np.errstate(all="ignore"):
        cast = found.astype(wanted)
    whole = wanted.kind in "iu" and found.dtype.kind in "iu" and np.array_equal(cast, found)
    real = wanted.kind == "f" and found.dtype.kind in "iuf" and np.array_equal(np.isfinite(cast), np.isfinite(found))
    if not (whole or real or wanted == found.dtype):
        _refuse(name, f"{_short(found)} of {found.dtype} is no value of {wanted}, the input's type", f"give a value of {wanted}")
    if cast.dtype.kind == "f" and np.isnan(cast).any():
        _refuse(name, "it holds NaN", "give numbers")
    if value.shape is not None:
        if cast.size == 1 and all(d == 1 for d in value.shape):
            return cast.reshape((1,) * len(value.shape))
        pairs = zip(value.shape, cast.shape, strict=False)
        if len(value.shape) != cast.ndim or any(isinstance(d, int) and d != n for d, n in pairs):
            _refuse(name, f"its shape is {list(cast.shape)}, the model wants {_told(value)}", "give an array of that shape")
    return cast


def _short(found: Array) -> str:
    return str(found.reshape(-1)[0]) if found.size == 1 else f"an array {list(found.shape)}"


def _told(value: ir.Value) -> str:
    dims = value.shape.dims if value.shape is not None else ()
    return f"[{', '.join(str(d) if isinstance(d, int) else d.value or '?' for d in dims)}]"


def _refuse(name: str, what: str, fix: str) -> NoReturn:
    raise CimcError(what, where=f"input {name}", fix=fix)
