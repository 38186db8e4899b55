"""ONNX models inside a program: whether all that they name lies in the program.

A model may say that a tensor's data lie in a file. In a program they never do: the data of a large initializer of the main
graph are the array of its name, and every other tensor holds its own. Anything else would be read from wherever the process
happens to stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from cimc.errors import VerifyError

_EXTERNAL = onnx.TensorProto.EXTERNAL
_FIX = "compile the model again"


def parse(data: NDArray[Any] | bytes, where: str) -> onnx.ModelProto:
    """The model in these bytes.

    Raises:
        VerifyError: There is none.
    """
    content = data if isinstance(data, bytes) else data.tobytes()
    try:
        return onnx.ModelProto.FromString(content)
    except (DecodeError, ValueError) as error:
        raise VerifyError("it is no ONNX model", where=where, fix=_FIX) from error


def check_self_contained(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    """See that no tensor of a model needs a file.

    Args:
        model: Of a digital segment, or a whole graph.
        arrays: By initializer name.
        where: For the message.

    Raises:
        VerifyError: A tensor that does, or an array that is missing or of another type or shape.
    """
    for tensor in model.graph.initializer:
        if tensor.data_location == _EXTERNAL:
            _check_array(tensor, arrays, where)
    for tensor in _further(model):
        if tensor.data_location == _EXTERNAL:
            _fail(where, f"the data of tensor {tensor.name or 'without a name'} lie in a file")


def _check_array(tensor: onnx.TensorProto, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    name, told = tensor.name, {entry.key: entry.value for entry in tensor.external_data}
    if told.get("location") != name or told.get("offset", "0") != "0":
        _fail(where, f"the data of initializer {name} lie in a file")
    array = arrays.get(name)
    if array is None:
        _fail(where, f"there is no array for initializer {name}")
    try:
        dtype = ir.DataType(tensor.data_type).numpy()
    except (ValueError, TypeError):
        _fail(where, f"initializer {name} is of element type {tensor.data_type}")
    if dtype != array.dtype or tuple(tensor.dims) != array.shape or told.get("length", str(array.nbytes)) != str(array.nbytes):
        what = f"initializer {name} is {dtype}{list(tensor.dims)}, its array {array.dtype}{list(array.shape)}"
        _fail(where, what)


def _further(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors but the dense initializers of the main graph."""
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(model.graph.node)
    for function in model.functions:
        yield from _in_nodes(function.node)
        yield from _in_attributes(function.attribute_proto)
    for info in model.training_info:
        yield from (*_in_graph(info.initialization), *_in_graph(info.algorithm))


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _in_attributes(node.attribute)


def _in_attributes(attributes: Any) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _in_graph(graph)


def _fail(where: str, what: str) -> NoReturn:
    raise VerifyError(what, where=where, fix=_FIX)
