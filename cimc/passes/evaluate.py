"""The value of a node whose inputs are constants, by ONNX Runtime where it is more than a rearrangement."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.onnx_io import reason, session
from cimc.passes.selection.operand import VIEW_OPS, integers, reshaped

#: Largest tensor that is computed, in bytes. One filled with a single value takes no memory at any size.
MAX_BYTES = 1 << 30

_SMALL = 256
_CONSTANT_FIELDS = ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings")


def evaluate(node: ir.Node, model: ir.Model) -> list[ir.TensorProtocol] | str:
    """The node's outputs, by ONNX Runtime; a text where there are none: the reason."""
    if node.op_type == "Constant":
        tensor = constant_tensor(node)
        return "a sparse tensor" if tensor is None else [tensor]
    if node.op_type == "ConstantOfShape":
        return _filled(node)
    if node.op_type in VIEW_OPS and (tensor := _rearranged(node)) is not None:
        return [tensor]
    if any(v is None or v.const_value is None or v.const_value.nbytes > MAX_BYTES for v in node.inputs if v is not None):
        return f"it reads more than {MAX_BYTES >> 20} MiB"
    proto, feeds = _single_node_model(node, model)
    return _too_large(proto) or _run(proto, feeds)


def _filled(node: ir.Node) -> list[ir.TensorProtocol] | str:
    """ConstantOfShape as an array without memory of its own."""
    shape = integers(node.inputs[0])
    attribute = node.attributes.get("value")
    value = attribute.as_tensor().numpy().reshape(-1)[0] if attribute is not None else np.float32(0)
    if shape is None or min(shape, default=0) < 0:
        return "its shape is not known, or negative"
    return [ir.Tensor(np.broadcast_to(value, shape))]


def _rearranged(node: ir.Node) -> ir.TensorProtocol | None:
    """A transposition or reshape, without a session for it and, but for Transpose, without a copy."""
    source = node.inputs[0].const_value if node.inputs[0] is not None else None
    if source is None or source.dtype.bitwidth < 8 or source.dtype == ir.DataType.STRING:
        return None
    if node.op_type == "Identity":
        return ir.Tensor(source.numpy(), dtype=source.dtype)
    if node.op_type == "Transpose":
        return ir.Tensor(np.ascontiguousarray(source.numpy().transpose(node.attributes.get_ints("perm"))), dtype=source.dtype)
    shape = reshaped(node, source.shape.numpy())
    return None if shape is None or prod(shape) != source.size else ir.Tensor(source.numpy().reshape(shape), dtype=source.dtype)


def _single_node_model(node: ir.Node, model: ir.Model) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The node alone; large inputs are fed, so that they are not copied, small ones are initializers, for shape inference."""
    graph = onnx.GraphProto(name="fold", node=[ir.to_proto(node)])
    feeds: dict[str, NDArray[Any]] = {}
    for value in {v for v in node.inputs if v is not None}:
        constant, name = value.const_value, value.name or ""
        if constant is None:
            continue
        array = constant.numpy() if constant.size > _SMALL else None
        if array is not None and array.dtype.isbuiltin == 1 and array.dtype != object:
            feeds[name] = array
            graph.input.append(onnx.helper.make_tensor_value_info(name, constant.dtype.value, array.shape))
        else:
            tensor = ir.to_proto(constant)
            tensor.name = name
            graph.initializer.append(tensor)
    graph.output.extend(onnx.ValueInfoProto(name=o.name) for o in node.outputs if o.name)
    opset = onnx.OperatorSetIdProto(domain="", version=model.opset_imports.get("", 1))
    return onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph, opset_import=[opset]), feeds


def _too_large(proto: onnx.ModelProto) -> str | None:
    """Why outputs are no tensors whose size is known beforehand and small enough; None: they are, and have their types now."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:
        return f"shape inference refuses it: {reason(error)}"
    for output, told in zip(proto.graph.output, inferred.graph.output, strict=True):
        tensor = told.type.tensor_type
        if not told.type.HasField("tensor_type") or not tensor.HasField("shape"):
            return f"the rank of its output '{output.name}' is not known beforehand"
        if not all(d.HasField("dim_value") for d in tensor.shape.dim) or tensor.elem_type == onnx.TensorProto.STRING:
            return f"the size of its output '{output.name}' is not known beforehand, or it is text"
        if prod(d.dim_value for d in tensor.shape.dim) * ir.DataType(tensor.elem_type).itemsize > MAX_BYTES:
            return f"its output '{output.name}' is larger than {MAX_BYTES >> 20} MiB"
        output.CopyFrom(told)
    return None


def _run(proto: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> list[ir.TensorProtocol] | str:
    wanted = [ir.DataType(o.type.tensor_type.elem_type) for o in proto.graph.output]
    try:
        return _typed(session(proto.SerializeToString(), {}, threads=1).run(None, feeds), wanted)
    except Exception as error:
        refused = reason(error)
    try:  # types that numpy lacks, as bfloat16, do not leave ONNX Runtime
        import onnx.reference

        return _typed(list(onnx.reference.ReferenceEvaluator(proto).run(None, feeds)), wanted)
    except Exception as error:
        # The digital unit meets the same node again, and its message reaches the user from there.
        return f"ONNX Runtime refuses it ({refused}), and ONNX's reference too ({reason(error)})"


def _typed(arrays: Sequence[Any], wanted: Sequence[ir.DataType]) -> list[ir.TensorProtocol]:
    tensors: list[ir.TensorProtocol] = [ir.tensor(array) for array in arrays]
    if [t.dtype for t in tensors] != list(wanted):
        raise TypeError(f"outputs of types {[t.dtype for t in tensors]}, not {wanted}")
    return tensors


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The value of a Constant node; None where it is sparse."""
    for name in _CONSTANT_FIELDS:
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if name == "value":
            return attribute.as_tensor()
        if name.startswith("value_string"):
            entries = attribute.as_strings() if name.endswith("s") else attribute.as_string()
            return ir.StringTensor(np.array(entries, dtype=object))
        return ir.tensor(attribute.value, dtype=ir.DataType.INT64 if "int" in name else ir.DataType.FLOAT)
    return None
