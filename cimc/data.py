"""Data as a model takes them: arrays of a data file, a folder of images or a data set, checked and brought to dtype and axes.

Data hold ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``; for a model of several inputs, an array
for each input by its name, for a sequence arrays called ``NAME.0``, ``NAME.1``, …, as `cimc.npz.save_npz` writes one.
uint8 images are scaled to 0...1 where the model takes floats, unless its preprocessing has a scale, which then takes their
place. ``x`` without a channel axis gets one if the model wants it. Where data come from: `cimc.sources`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array
from cimc.errors import DataError
from cimc.ir.bound import without_bound
from cimc.ir.program import Preprocessing, ValueSpec
from cimc.npz import read_npy
from cimc.npz import read_npz as read_npz
from cimc.npz import save_npz as save_npz
from cimc.sources import Data, Source, check_alone, is_data, open_data

Part = Literal["train", "test"]


def load_arrays(
    data: Data,
    inputs: Sequence[ValueSpec | str],
    part: Part = "train",
    how: Preprocessing | None = None,
    bound: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """The model's inputs from data: arrays; lists of arrays for sequences; those that it holds of the optional ones.

    Args:
        data: As `cimc.sources.open_data` takes them.
        inputs: What the model takes; a bare name leaves dtype and shape unchecked. One with a default may lack.
        part: Which half of data with ``x_train`` and ``x_test`` to take, where there is no ``x``.
        how: Preprocessing, of a model of one input.
        bound: Inputs that were bound to a value when the model was compiled.

    Raises:
        DataError: The data are not usable, lack an input, have another value of a bound one, or an array has the wrong dtype or
            shape, is empty or holds NaN.
    """
    source = open_data(data)
    specs = [ValueSpec(name=i, dtype="", shape=None) if isinstance(i, str) else i for i in inputs]
    needed = needed_inputs(specs)
    lists = any(spec.type in ("sequence", "optional") for spec in specs)
    wanted = source.names if lists else [*(spec.name for spec in specs), *(bound or ()), "x", f"x_{part}"]
    held = without_bound(source.read(wanted, needed[0] if len(needed) == 1 else None), bound or {}, source.where)
    found = {spec.name: value for spec in specs if (value := _held(spec, held)) is not None}
    missing = [spec for spec in specs if spec.name not in found and not spec.has_default and spec.type != "optional"]
    alone = next((key for key in ("x", f"x_{part}") if key in held), None)
    if missing and len(needed) == 1 and alone is not None:
        found[missing[0].name] = held[alone]
    elif missing:
        fix = _keys([spec.name for spec in needed], part)
        raise DataError(f"no array for input {', '.join(spec.name for spec in missing)}", where=source.where, fix=fix)
    how = how if len(needed) == 1 else None
    return {spec.name: _ready(found[spec.name], spec, source.where, how) for spec in specs if spec.name in found}


def bound_value(value: Any, name: str) -> Any:
    """What is to be bound to an input: a value, or that of an npy or npz file whose path is given.

    Raises:
        DataError: There is no such file, or it does not hold one array, nor one of that name.
    """
    if not isinstance(value, Path) and not (isinstance(value, str) and value.endswith((".npy", ".npz"))):
        return value
    where = str(value)
    if where.endswith(".npz"):
        arrays = read_npz(value)
        if name not in arrays and len(arrays) != 1:
            raise DataError(f"holds {', '.join(arrays) or 'nothing'}", where=where, fix=f"save one array, or one called {name}")
        return arrays[name] if name in arrays else next(iter(arrays.values()))
    return read_npy(value)


def needed_inputs(specs: Sequence[ValueSpec]) -> list[ValueSpec]:
    """Inputs that have no default."""
    return [spec for spec in specs if not spec.has_default]


def one_input(specs: Sequence[ValueSpec], where: str, fix: str) -> ValueSpec:
    """The one input without a default.

    Raises:
        DataError: There are several, or none.
    """
    needed = needed_inputs(specs)
    if len(needed) != 1:
        raise DataError(f"the model has {len(needed)} inputs, but accuracy needs one", where=where, fix=fix)
    return needed[0]


def labelled(
    x: Any, y: Any, spec: ValueSpec, where: str, how: Preprocessing | None, ignore: int | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images as `as_input` gives them, and their class numbers, ``[images]`` or ``[images, ...]``.

    Where ``x`` is no array but data, as `cimc.sources.open_data` takes them, these are its test part.

    Raises:
        DataError: As `as_input` and `load_labelled`; or labels are not whole numbers, not one an image, or given beside data.
    """
    if is_data(x):
        check_alone(x, y, where)
        return load_labelled(x, spec, how=how, ignore=ignore)
    images, labels = as_input(np.asarray(x), spec, where, how), np.asarray(y)
    if not labels.ndim or len(images) != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        what = f"labels are {labels.dtype} {list(labels.shape)} for {len(images)} images"
        raise DataError(what, where=where, fix="give a whole number an image, or a place of it")
    return images, labels


def targeted(x: Any, y: Any, spec: ValueSpec, where: str, how: Preprocessing | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """As `labelled`, with targets of a regression.

    Raises:
        DataError: As `as_input` and `load_targets`; or targets are not one an image.
    """
    if is_data(x):
        check_alone(x, y, where)
        return load_targets(x, spec, how=how)
    images, targets = as_input(np.asarray(x), spec, where, how), array(y, "y")
    if not targets.ndim or len(images) != len(targets):
        raise DataError(f"targets {list(targets.shape)} for {len(images)} images", where=where, fix="give targets for each")
    return images, targets


def _held(spec: ValueSpec, held: Mapping[str, NDArray[Any]]) -> Any:
    """What a file holds for an input: an array, or a list of those called ``NAME.0``, ``NAME.1``, …; None: nothing."""
    if spec.type in ("sequence", "optional") and spec.name not in held:
        count = next(n for n in range(len(held) + 1) if f"{spec.name}.{n}" not in held)
        return [held[f"{spec.name}.{n}"] for n in range(count)] or None
    return held.get(spec.name)


def _ready(value: Any, spec: ValueSpec, path: str, how: Preprocessing | None) -> Any:
    if isinstance(value, list):
        return [as_input(element, spec, f"{path}, input {spec.name}.{n}") for n, element in enumerate(value)]
    return prepared(value, spec, f"{path}, input {spec.name}", None if spec.has_default else how)


def load_pair(
    data: Data, spec: ValueSpec, part: Part, how: Preprocessing | None = None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Images, to which preprocessing ``how`` is still to be applied, and what the data hold as ``y``, unchecked; None: nothing.

    Raises:
        DataError: The data are not usable, or hold no images of the part, or such as do not suit the input.
    """
    source = open_data(data)
    x_name, y_name = (f"{letter}{_suffix(source, part)}" for letter in "xy")
    arrays = source.read([x_name, y_name], spec)
    if x_name not in arrays:
        raise DataError(f"holds no array {x_name}", where=source.where, fix=source.wanted)
    return as_input(arrays[x_name], spec, f"{source.where}, {x_name}", how), arrays.get(y_name)


def load_targets(
    data: Data, spec: ValueSpec, part: Part = "test", how: Preprocessing | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images, to which preprocessing ``how`` is still to be applied, and targets of a regression.

    Raises:
        DataError: As `load_pair`; or there are no targets, or not one an image.
    """
    source = open_data(data)
    x, y = load_pair(source, spec, part, how)
    if y is None or not y.ndim or len(y) != len(x):
        what = "no targets" if y is None else f"targets {list(y.shape)} for {len(x)} images"
        raise DataError(what, where=f"{source.where}, y{_suffix(source, part)}", fix=source.wanted)
    return x, y


def _suffix(source: Source, part: Part) -> str:
    return "" if "x" in source.names else f"_{part}"


def load_labelled(
    data: Data, spec: ValueSpec, part: Part = "test", how: Preprocessing | None = None, ignore: int | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and their class numbers, ``[images]`` or ``[images, ...]``; preprocessing ``how`` is still to be applied.

    Labels that are ``ignore`` may be negative.

    Args:
        data: As `cimc.sources.open_data` takes them.
        spec: The input that takes the images.
        part: As `load_arrays`.
        how: Preprocessing that will be applied.
        ignore: Label of places that do not count.

    Raises:
        DataError: As `load_arrays`; or labels are missing, not whole numbers from 0, or not one an image.
    """
    source = open_data(data)
    x, y = load_pair(source, spec, part, how)
    where = f"{source.where}, y{_suffix(source, part)}"
    if y is None:
        raise DataError(f"holds no array y{_suffix(source, part)}", where=source.where, fix=source.wanted)
    if not np.issubdtype(y.dtype, np.integer) or y.ndim == 0 or y.size == 0:
        raise DataError(
            f"labels are {y.dtype} {list(y.shape)}", where=where, fix="give a whole number an image, or a place of it"
        )
    if len(y) != len(x):
        raise DataError(f"{len(y)} labels for {len(x)} images", where=where)
    low = int(y[y != ignore].min(initial=0)) if ignore is not None else int(y.min())
    if low < 0:
        fix = f"number the classes from 0; --ignore-index {low} leaves out what is labelled so"
        raise DataError(f"label {low} is negative", where=where, fix=fix)
    return x, y


def prepared(x: NDArray[Any], spec: ValueSpec, where: str, how: Preprocessing | None) -> NDArray[Any]:
    """``x`` as the model's input wants it, preprocessed.

    Raises:
        DataError: As `as_input` and `preprocess`.
    """
    return preprocess(as_input(x, spec, where, how), how)


def as_input(x: NDArray[Any], spec: ValueSpec, where: str, how: Preprocessing | None = None) -> NDArray[Any]:
    """``x`` in the dtype and with the axes that the model's input wants; where ``how`` has a scale, uint8 stays 0 to 255.

    Raises:
        DataError: It does not fit, is empty, or holds NaN.
    """
    x = array(x, where)
    if x.size == 0:
        raise DataError(f"is empty: shape {list(x.shape)}", where=where)
    if how is not None and how.scale is not None and x.dtype == np.uint8:
        x = x.astype(np.float32)
    x = _with_channel(_as_dtype(x, spec.dtype, where), spec.shape)
    if spec.shape is not None:
        shape = ", ".join("?" if n is None else str(n) for n in spec.shape)
        fixed = [(n, int(m)) for n, m in list(zip(x.shape, spec.shape, strict=False))[1:] if isinstance(m, int)]
        if x.ndim != len(spec.shape) or any(n != m for n, m in fixed):
            raise DataError(f"shape {list(x.shape)}, but the model takes [{shape}]", where=where)
    if x.dtype.kind == "f" and np.isnan(x).any():
        raise DataError(f"holds NaN, first at {np.argwhere(np.isnan(x))[0].tolist()}", where=where)
    return x


def _as_dtype(x: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    if name == "string":
        if x.dtype.kind not in "US":
            raise DataError(f"is {x.dtype}, but the model takes strings", where=where)
        return np.char.decode(x).astype(object) if x.dtype.kind == "S" else x.astype(object)
    if not name:  # nothing known: still images where they are uint8
        return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401  makes the name known to numpy
    dtype = np.dtype(name)
    if x.dtype == dtype:
        return x
    real = dtype.kind == "f" or name == "bfloat16"
    if x.dtype == np.uint8 and real:
        return (x.astype(np.float32) / np.float32(255)).astype(dtype)
    if x.dtype.kind == "f" and real:
        return x.astype(dtype)
    if x.dtype.kind in "iu" and dtype.kind in "iu":
        cast = x.astype(dtype)
        if np.array_equal(cast, x):
            return cast
        raise DataError(f"holds values that do not fit {name}", where=where)
    raise DataError(f"is {x.dtype}, but the model takes {name}", where=where, fix=f"save it as {name}")


def _with_channel(x: NDArray[Any], shape: tuple[int | str | None, ...] | None) -> NDArray[Any]:
    """A channel axis where the model has one of length 1 and the images have none: after the images' axis, else last."""
    if shape is None or x.ndim != len(shape) - 1 or x.ndim < 2:
        return x
    if shape[1] == 1:
        return np.expand_dims(x, 1)
    return np.expand_dims(x, -1) if shape[-1] == 1 else x


def preprocess(x: NDArray[Any], how: Preprocessing | None) -> NDArray[Any]:
    """``(x * scale - mean) / std``, mean and std one a channel (axis 1) or one for all.

    Raises:
        DataError: There are neither one nor as many as channels.
    """
    if how is None:
        return x
    channels = x.shape[1] if x.ndim > 1 else 1
    for name, values in (("mean", how.mean), ("std", how.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{len(values)} values for {channels} channels", where=f"preprocessing, {name}", fix="give one or one a channel"
            )
    shape = (-1,) + (1,) * max(0, x.ndim - 2)
    mean, std = (np.asarray(v, x.dtype).reshape(shape) for v in (how.mean, how.std))
    scaled = x if how.scale is None else x * x.dtype.type(how.scale)
    result: NDArray[Any] = (scaled - mean) / std
    return result


def _keys(wanted: Sequence[str], part: Part) -> str:
    return f"save it under {wanted[0]}, x or x_{part}" if len(wanted) == 1 else f"save an array under each of {', '.join(wanted)}"
