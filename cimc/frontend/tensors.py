"""Tensors of a model: their size against their bytes, and external data within the model's folder."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import ModelError

_T = onnx.TensorProto
#: Field of a TensorProto that holds elements of these types when raw_data does not, and how many entries an element takes.
_TYPED: dict[int, tuple[str, int]] = {
    _T.FLOAT: ("float_data", 1),
    _T.COMPLEX64: ("float_data", 2),
    _T.DOUBLE: ("double_data", 1),
    _T.COMPLEX128: ("double_data", 2),
    _T.INT64: ("int64_data", 1),
    _T.UINT32: ("uint64_data", 1),
    _T.UINT64: ("uint64_data", 1),
    _T.STRING: ("string_data", 1),
}


@dataclass(frozen=True)
class External:
    """Where the bytes of an external tensor lie."""

    path: Path
    offset: int
    length: int


def protos(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph: initializers, and attributes of its nodes, subgraphs included; dense ones only."""
    yield from graph.initializer
    yield from in_nodes(graph.node)


def in_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
    """Every dense tensor in attributes of these nodes and in their subgraphs."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from protos(graph)


def nbytes(tensor: onnx.TensorProto, where: str) -> int:
    """Bytes that the tensor's shape asks for.

    Raises:
        ModelError: A negative dimension, or no such element type.
    """
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}", where=where, fix="export the model again")
    if tensor.data_type in (_T.STRING, _T.UNDEFINED) or tensor.data_type not in _T.DataType.values():
        wrong = f"tensor {tensor.name!r} has raw data of element type {tensor.data_type}"
        raise ModelError(wrong, where=where, fix="export the model again")
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return (bits + 7) // 8


def check_size(tensor: onnx.TensorProto, raw: int | None, where: str) -> None:
    """Compare shape and data before anything of that shape is allocated.

    Args:
        tensor: A tensor whose data is not external.
        raw: Bytes of its raw data where that was taken out of it.
        where: The file, for the message.

    Raises:
        ModelError: They differ.
    """
    if raw is None and tensor.HasField("raw_data"):
        raw = len(tensor.raw_data)
    if raw is not None:
        wanted, found, unit = nbytes(tensor, where), raw, "bytes"
    else:
        if any(d < 0 for d in tensor.dims):
            nbytes(tensor, where)
        field, each = _TYPED.get(tensor.data_type, ("int32_data", 1))
        count = math.prod(tensor.dims)
        if field == "int32_data" and tensor.data_type in _T.DataType.values() and tensor.data_type != _T.UNDEFINED:
            bits = ir.DataType(tensor.data_type).bitwidth
            count = count if bits >= 8 else (count * bits + 7) // 8
        wanted, found, unit = count * each, len(getattr(tensor, field)), "values"
    if wanted != found:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {wanted} {unit}, the file holds {found}",
            where=where,
            fix="export the model again; the file is damaged",
        )


def locate(tensor: onnx.TensorProto, folder: Path | None, where: str) -> External:
    """The file, offset and length of an external tensor, checked.

    Raises:
        ModelError: The file is missing, lies outside the model's folder, or is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    name = f"tensor {tensor.name!r}"
    if folder is None:
        raise ModelError(f"{name} is external data in {location!r}", where=where, fix="give the model as a path, not as bytes")
    inside = f"put the data beside the model, in {folder}, and export again"
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"{name} is external data in {location!r}, outside the model's folder", where=where, fix=inside)
    path = folder / location
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise ModelError(f"{name} is external data in {location!r}, a link out of the model's folder", where=where, fix=inside)
    try:
        status = os.stat(real)
    except OSError as error:
        missing = f"{name} is external data in {location!r}, which cannot be read: {error.strerror}"
        raise ModelError(missing, where=where, fix=f"copy {location} into {folder}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{name} is external data in {location!r}, which is no regular file", where=where, fix=inside)
    wanted = nbytes(tensor, where)
    offset, length = (_whole(entries.get(key), default) for key, default in (("offset", 0), ("length", wanted)))
    if offset is None or length is None:
        raise ModelError(f"{name} has an offset or length that is no number", where=where, fix="export the model again")
    if length != wanted or offset + wanted > status.st_size:
        raise ModelError(
            f"{name} of shape {list(tensor.dims)} needs {wanted} bytes; {location!r} holds {status.st_size},"
            f" of which it names {length} from byte {offset}",
            where=where,
            fix=f"copy {location} again, it is truncated or belongs to another model",
        )
    return External(path, offset, length)


def mapped(tensor: onnx.TensorProto, data: External) -> NDArray[Any]:
    """The tensor's data, memory-mapped and read-only."""
    dtype = ir.DataType(tensor.data_type).numpy().newbyteorder("<")
    if data.length == 0:
        return np.empty(tuple(tensor.dims), dtype)
    return np.memmap(data.path, dtype, "r", data.offset, tuple(tensor.dims))


def is_array(tensor: onnx.TensorProto) -> bool:
    """Whether numpy holds the elements as the file does: at least a byte each, no strings."""
    kind = tensor.data_type
    return kind not in (_T.STRING, _T.UNDEFINED) and kind in _T.DataType.values() and ir.DataType(kind).bitwidth >= 8


def _whole(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
