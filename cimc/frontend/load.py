"""From whatever the user gives as a model to a checked `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import ModelError
from cimc.frontend import check, normal, sparse, tensors, wire
from cimc.frontend.functions import check_functions
from cimc.frontend.names import unique_node_names
from cimc.frontend.sizes import check_sizes
from cimc.ir import onnx_io
from cimc.ir.kinds import expect

#: Initializers of fewer bytes are parsed with the model.
KEEP_BELOW = 256
_EXPORT = "give a file written by torch.onnx.export, onnx.save or another ONNX exporter"

ModelSource: TypeAlias = str | Path | bytes | onnx.ModelProto | ir.Model


@dataclass
class Loaded:
    """A model that is valid ONNX and that ONNX Runtime runs.

    It has no model-local functions, every node has a name of its own, and its large initializers are arrays:
    memory-mapped where they were external data, read once where they were embedded.
    """

    model: ir.Model
    name: str
    """File name, or the graph's name where there is no file."""
    sha256: str
    """Of the file, followed by its external data files in the order of their names."""


def load(model: ModelSource) -> Loaded:
    """Read and check a model, at its own opset.

    Args:
        model: A path, a serialised model, or one in memory, which stays unchanged. External data needs a path.

    Raises:
        ModelError: It is no valid ONNX model, ONNX Runtime refuses it, or its external data is missing, damaged or outside
            the model's folder. The message names file, node and a way out.
    """
    with _quiet():
        return _load(model)


def external_files(path: Path) -> list[Path]:
    """The files beside a model that hold its external data.

    Raises:
        ModelError: It is no ONNX model, or such a file is missing, too short, or outside the model's folder.
    """
    where = str(path)
    with (
        _readable(path) as file,
        check.refusing(where, "not an ONNX model", _EXPORT),
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer,
        memoryview(buffer) as view,
    ):
        proto, _ = _stripped(view, where)
    return sorted(_external_files(proto, path.parent, where))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without onnx_ir's own remarks on a bad model: the ModelError says it."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(model: ModelSource) -> Loaded:
    if isinstance(model, ir.Model):
        name = model.graph.name or "model"
        with check.refusing(name, "it cannot be written as ONNX", "load it with onnx_ir.load from a path beside its data"):
            small, arrays = onnx_io.split(model, keep_below=KEEP_BELOW)
        proto = _parse(small, name)
        digest = hashlib.sha256(small)
        for key in sorted(arrays):
            digest.update(arrays[key].data)
        return Loaded(_checked(proto, arrays, None, name), name, digest.hexdigest())
    if isinstance(model, (str, Path)):
        return _load_file(Path(model))
    if isinstance(model, onnx.ModelProto):
        name = model.graph.name or "model"
        with check.refusing(name, "it cannot be serialised", "save it with external data, and give the path"):
            model = model.SerializeToString(deterministic=True)
    if isinstance(model, bytes):
        return _load_bytes(model)
    raise ModelError(f"a model cannot be a {type(model).__name__}", fix="give a path, bytes, onnx.ModelProto or onnx_ir.Model")


def _load_file(path: Path) -> Loaded:
    where = str(path)
    expect(path, "model", ModelError)
    with _readable(path) as file:
        size = file.seek(0, 2)
        if size == 0:
            raise ModelError("the file is empty", where=where, fix=_EXPORT)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer, memoryview(buffer) as view:
            proto, taken = _stripped(view, where)

        def read(offset: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
            return np.fromfile(path, dtype, count, offset=offset)

        arrays = _embedded(proto, taken, read, where)
    for data in sorted(_external_files(proto, path.parent, where)):
        with _readable(data) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return Loaded(_checked(proto, arrays, path.parent, where), path.name, digest.hexdigest())


def _load_bytes(data: bytes) -> Loaded:
    if not data:
        raise ModelError("the model is empty", where="model", fix=_EXPORT)
    proto, taken = _stripped(memoryview(data), "model")

    def read(offset: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        return np.require(np.frombuffer(data, dtype, count, offset), requirements=("C", "A"))

    name = proto.graph.name or "model"
    arrays = _embedded(proto, taken, read, name)
    return Loaded(_checked(proto, arrays, None, name), name, hashlib.sha256(data).hexdigest())


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    try:
        if path.exists() and not path.is_file():
            raise ModelError("this is no regular file", where=str(path), fix="give the path of an .onnx file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"cannot read the model: {reason}", where=str(path), fix="check the path") from None
    with file:
        yield file


def _stripped(view: memoryview, where: str) -> tuple[onnx.ModelProto, dict[int, tuple[int, int]]]:
    try:
        small, taken = wire.strip(view, keep_below=KEEP_BELOW)
    except wire.WireError as error:
        raise ModelError(f"not an ONNX model, or a truncated one: {error}", where=where, fix=_EXPORT) from None
    return _parse(small, where), taken


def _parse(small: bytes, where: str) -> onnx.ModelProto:
    with check.refusing(where, "not an ONNX model, or a damaged one", _EXPORT):
        proto: onnx.ModelProto = onnx.ModelProto.FromString(small)
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("not an ONNX model: it has no graph or no version", where=where, fix=_EXPORT)
    if not proto.graph.output:
        raise ModelError("the model has no outputs", where=where, fix="name what it is to compute as outputs of its graph")
    outputs = Counter(value.name for value in proto.graph.output)
    if twice := [name for name, count in outputs.items() if count > 1]:
        raise ModelError(f"{twice[0]!r} is an output twice", where=where, fix="name each output once")
    return proto


def _embedded(proto: onnx.ModelProto, taken: dict[int, tuple[int, int]], read: Any, where: str) -> dict[str, NDArray[Any]]:
    """Arrays of the initializers whose raw data was left in the file; those that are no array go back into the model."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, (offset, length) in taken.items():
        tensor = proto.graph.initializer[index]
        with check.refusing(where, "an initializer is damaged", _EXPORT):
            tensors.check_size(tensor, length, where)
        if tensors.is_array(tensor) and tensor.name not in arrays:
            dtype = ir.DataType(tensor.data_type).numpy()
            arrays[tensor.name] = read(offset, dtype, length // dtype.itemsize).reshape(tuple(tensor.dims))
        else:
            tensor.raw_data = read(offset, np.dtype(np.uint8), length).tobytes()
    return arrays


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from tensors.protos(proto.graph)
    for function in proto.functions:
        yield from tensors.in_nodes(function.node)


def _external_files(proto: onnx.ModelProto, folder: Path, where: str) -> set[Path]:
    with check.refusing(where, "external data is damaged", _EXPORT):
        outside = [t for t in _all_tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
        return {tensors.locate(tensor, folder, where).path for tensor in outside}


def _checked(proto: onnx.ModelProto, arrays: dict[str, NDArray[Any]], folder: Path | None, where: str) -> ir.Model:
    """Bring in external data, bring the model to its normal form, and check everything."""
    with check.refusing(where, "not a sound ONNX model", _EXPORT):
        names = Counter(tensor.name for tensor in proto.graph.initializer)
        if repeated := [name for name, count in names.items() if count > 1 or not name]:
            raise ModelError(f"{repeated[0]!r} names more than one initializer, or none", where=where, fix=_EXPORT)
        _bring_in_external(proto, arrays, folder, where)
        for tensor in _all_tensors(proto):
            if tensor.name not in arrays or tensor.HasField("raw_data"):
                tensors.check_size(tensor, None, where)
        sparse.make_dense(proto.graph, where)
        check.given(proto, where)
        given = onnx.ModelProto()
        given.CopyFrom(proto)
        normal.normalise(proto, where)
        check_functions(proto, where)
    try:
        shell = check.shell(proto, arrays.keys())
    except UnicodeDecodeError:
        raise ModelError("a name in it is no UTF-8 text", where=where, fix="export the model again") from None
    check_sizes(shell, where)
    complaint = check.complaint(shell, where)
    try:
        return _runnable(proto, given, arrays, where)
    except ModelError as error:
        raise complaint or error from None


def _runnable(proto: onnx.ModelProto, given: onnx.ModelProto, arrays: dict[str, NDArray[Any]], where: str) -> ir.Model:
    """The model, its functions inlined, if ONNX Runtime takes both it and what was given, whose faults its form could hide."""
    with check.refusing(where, "its functions cannot be inlined", "inline them with onnx.inliner before"):
        proto = _inlined(proto, where)
    with check.refusing(where, "not a sound ONNX model", _EXPORT):
        _forget_map_types(proto.graph, where)
        _forget_negative_sizes(proto.graph)
        model: ir.Model = ir.from_proto(proto)
        for name, array in arrays.items():
            value = model.graph.initializers[name]
            value.const_value = ir.Tensor(array, name=name)
        unique_node_names(model.graph)
    check.runnable(given, arrays, where, model)
    check.runnable_again(model, where)
    return model


def _inlined(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if any(opsets.get(e.domain, e.version) != e.version for f in proto.functions for e in f.opset_import):
        # Bodies of another opset are converted, which needs the types of what they are called with.
        proto = onnx.shape_inference.infer_shapes(proto)
    proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
    if proto.functions:
        left = ", ".join(f"{f.domain}::{f.name}" for f in proto.functions)
        raise ModelError(f"functions cannot be inlined: {left}", where=where, fix="export without local functions")
    return proto


def _bring_in_external(proto: onnx.ModelProto, arrays: dict[str, NDArray[Any]], folder: Path | None, where: str) -> None:
    """Map external initializers of the main graph; read other external tensors into the model."""
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensors.is_array(tensor):
            if tensor.name not in arrays:
                arrays[tensor.name] = tensors.mapped(tensor, tensors.locate(tensor, folder, where))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    for tensor in _all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = tensors.locate(tensor, folder, where)
            with data.path.open("rb") as file:
                file.seek(data.offset)
                tensor.raw_data = file.read(data.length)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def _forget_map_types(graph: onnx.GraphProto, where: str) -> None:
    """Drop stated types that onnx_ir cannot hold; ONNX Runtime infers them again.

    Raises:
        ModelError: An input is a map.
    """
    for value in graph.input:
        if _holds_map(value.type):
            fix = "give the model from behind it (ai.onnx.ml's DictVectorizer, CastMap), which takes a tensor"
            raise ModelError(f"its input '{value.name}' is a map, which cimc does not take", where=where, fix=fix)
    for value in (*graph.output, *graph.value_info):
        if _holds_map(value.type):
            value.ClearField("type")


def _holds_map(kind: onnx.TypeProto) -> bool:
    while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
        kind = getattr(kind, kind.WhichOneof("value")).elem_type
    return kind.HasField("map_type")


def _forget_negative_sizes(graph: onnx.GraphProto) -> None:
    """Some exporters write an unknown dimension as -1; ONNX Runtime takes it for one, and so does all that follows here."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
