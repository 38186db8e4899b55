"""Sizes that a model states or implies: what no machine holds is refused before anything of that size is allocated."""

from __future__ import annotations

from math import prod

import onnx
import onnx.shape_inference
import onnx_ir as ir

from cimc.errors import ModelError
from cimc.ir.onnx_io import MOST_BYTES


def check_sizes(model: onnx.ModelProto, where: str) -> None:
    """Compare inputs, outputs and what shape inference tells of the values between with the limit.

    Args:
        model: Without the bytes of its large initializers, which stand as inputs.
        where: The file, for the message.

    Raises:
        ModelError: It names the value.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model)  # data propagation would itself fill a vector of that size
    except Exception:  # what it cannot infer, ONNX Runtime judges
        inferred = model
    for value in (*model.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or tensor.elem_type not in onnx.TensorProto.DataType.values():
            continue
        dims = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in tensor.shape.dim]
        string = tensor.elem_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)
        size = prod(max(dim, 0) for dim in dims) * (8 if string else ir.DataType(tensor.elem_type).itemsize)
        if size > MOST_BYTES:
            raise ModelError(
                f"value '{value.name}' of shape {dims} takes {size / 1e9:.3g} GB for one image, more than {MOST_BYTES / 1e9:.3g}",
                where=where,
                fix="correct the shape, or export a smaller model",
            )
