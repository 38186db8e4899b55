"""ONNX models with their large initializers kept aside as arrays.

A model splits into a small ONNX file and its arrays: `split`. `session` runs that form without copying the arrays, `join`
makes a whole model of it again. In the small file an initializer kept aside is external data whose location is its own name.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import cimc.threads
from cimc.files import scratch

#: Of one value of a model, with its open sizes at 1; what takes more is refused.
MOST_BYTES = 4 << 30
#: Element types that numpy has itself. The others (bfloat16, 8-bit floats, sub-byte, strings) stay in the small file.
_PLAIN = frozenset("biufc")
_REAL = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
_STAND_IN = "weights"
#: ONNX Runtime's words for types of tensors.
_WORDS = {f"tensor({kind.name.lower()})": kind for kind in ir.DataType if kind != ir.DataType.UNDEFINED}


def split(model: ir.Model, *, keep_below: int = 256) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The model as a small ONNX file and the arrays of its main graph's large initializers.

    Arrays are the tensors' own buffers (memory-mapped where they were), copied only where they are not contiguous or not
    aligned. Initializers of subgraphs, and those whose element type numpy lacks, stay in the file. The model is unchanged.

    Args:
        model: Any model.
        keep_below: Initializers of fewer bytes stay in the file: ONNX Runtime's shape inference wants shapes there.

    Returns:
        The serialised model, and arrays by initializer name.
    """
    tensors: dict[str, NDArray[Any]] = {}
    stands_for: dict[ir.Value, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if not is_plain(tensor.dtype) or tensor.nbytes < keep_below:
            if isinstance(tensor, ir.ExternalTensor):
                stands_for[value] = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
            continue
        array = tensor.numpy()
        array = np.require(
            array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")), requirements=("C", "A")
        )
        tensors[name] = array
        stands_for[value] = ir.ExternalTensor(
            name, 0, array.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name, doc_string=tensor.doc_string
        )
    with _replaced(stands_for):
        return ir.to_proto(model).SerializeToString(deterministic=True), tensors


def outline(model: ir.Model, *, keep_below: int = 256) -> onnx.ModelProto:
    """The model for shape inference: large initializers are external data that nobody wrote, so no array is made or copied."""
    stands_for: dict[ir.Value, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= keep_below:
            stands_for[value] = ir.ExternalTensor(
                name, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    with _replaced(stands_for):
        proto: onnx.ModelProto = ir.to_proto(model)
    return proto


def join(model_bytes: bytes, tensors: Mapping[str, NDArray[Any]]) -> ir.Model:
    """The inverse of `split`: a model whose initializers refer to the arrays, ready for `onnx_ir.save` or `onnx_ir.to_proto`.

    Raises:
        KeyError: An array is missing.
    """
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(model_bytes))
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensors[name], name=name, doc_string=value.const_value.doc_string)
    return model


def session(
    model_bytes: bytes,
    tensors: Mapping[str, NDArray[Any]],
    *,
    optimise: bool = False,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU that reads the arrays where they are, or, optimised, maps a file of them.

    Its threads do not spin, weights are not repacked (peak memory stays near one copy), and it keeps the arrays alive.

    Args:
        model_bytes: The small file that `split` gives.
        tensors: Arrays by initializer name; names that the model does not use do no harm.
        optimise: Let ONNX Runtime fuse nodes; off, each node computes what its own operator says.
        outputs: Values of the main graph to return instead of the model's outputs, in this order.
        threads: Threads within an operator; None: all of `cimc.threads.threads`. The last bits of products may depend
            on it (`cimc.runtime.thread_order`).

    Raises:
        Exception: Whatever ONNX Runtime raises for a model that it refuses; callers turn it into a CimcError.
    """
    model = onnx.ModelProto.FromString(model_bytes)
    if outputs is not None:
        _set_outputs(model, outputs)
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or cimc.threads.threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")  # optimised 8-bit products do not saturate, see `unsigned`
    if not external:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = {} if optimise else _lent(external, tensors, options)
    with scratch() as folder:
        with (folder / _STAND_IN).open("wb") as file:
            for tensor in external:
                offset = _write(file, tensors[tensor.name]) if optimise else 0
                del tensor.external_data[:]
                for key, entry in (("location", _STAND_IN), ("offset", offset), ("length", tensors[tensor.name].nbytes)):
                    tensor.external_data.add(key=key, value=str(entry))
            if not optimise:
                file.truncate(max(tensors[t.name].nbytes for t in external))
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        made = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made.cimc_initializers = values
    return made


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says of a model or inputs that it refuses."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def told_type(word: str) -> ir.TensorType | None:
    """The type that ONNX Runtime tells of a value as ``tensor(float)``; None where it is no tensor."""
    return ir.TensorType(_WORDS[word]) if word in _WORDS else None


def _lent(
    external: Sequence[onnx.TensorProto], tensors: Mapping[str, NDArray[Any]], options: ort.SessionOptions
) -> dict[str, ort.OrtValue]:
    """Lend ONNX Runtime the arrays as they lie.

    Only without optimisation, which transposes and drops initializers, and would then meet arrays of the old shapes. The
    loader wants to find the data too, and copies what it is given: for real weights, which it has no reason to look at, a
    sparse file of the right size stands in.
    """
    values = {t.name: ort.OrtValue.ortvalue_from_numpy(np.require(tensors[t.name], requirements=("C", "A"))) for t in external}
    for name, value in values.items():
        options.add_initializer(name, value)
    looked_at = [t.name for t in external if t.data_type not in _REAL]
    if looked_at:
        options.add_external_initializers(looked_at, [values[name] for name in looked_at])
    return values


def _write(file: BinaryIO, array: NDArray[Any]) -> int:
    """Append an array at the start of a page; its offset."""
    offset = -(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE
    file.seek(offset)
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return offset


def is_plain(dtype: ir.DataType) -> bool:
    """Whether an array of this element type may be kept aside."""
    return dtype != ir.DataType.STRING and dtype.bitwidth >= 8 and dtype.numpy().kind in _PLAIN


@contextmanager
def _replaced(tensors: Mapping[ir.Value, ir.TensorProtocol]) -> Iterator[None]:
    """Initializers replaced for the while of a serialisation."""
    kept = {value: value.const_value for value in tensors}
    try:
        for value, tensor in tensors.items():
            value.const_value = tensor
        yield
    finally:
        for value, own in kept.items():
            value.const_value = own


def _set_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Change the outputs; ONNX Runtime infers the types that the model does not state."""
    known = {v.name: v for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    chosen = [known.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    del model.graph.output[:]
    model.graph.output.extend(chosen)
