"""The ONNX dialect of the graph stages: domain ``cimc``, one operator, ``Vmm``.

``select`` replaces each node that goes to crossbars by a ``Vmm`` that keeps the node's name, its activation, its weight
initializer and its bias; ``calibrate`` and ``quantise`` add attributes to it; ``lower`` reads it.
"""

from __future__ import annotations

import onnx
from onnx.defs import OpSchema

DOMAIN = "cimc"
VERSION = 1

_INTS, _INT, _FLOAT, _FLOATS, _STRING = (
    OpSchema.AttrType.INTS,
    OpSchema.AttrType.INT,
    OpSchema.AttrType.FLOAT,
    OpSchema.AttrType.FLOATS,
    OpSchema.AttrType.STRING,
)

#: name -> (type, required, meaning)
VMM_ATTRIBUTES: dict[str, tuple[OpSchema.AttrType, bool, str]] = {
    "layer": (_STRING, True, "The crossbar layer; nodes that share a weight share it."),
    "geometry": (_STRING, True, "JSON of cimc.ir.geometry.Geometry: how inputs form row vectors and where outputs go."),
    "view_index": (_INTS, False, "WeightView.index."),
    "view_split": (_INTS, True, "WeightView.split."),
    "view_perm": (_INTS, True, "WeightView.perm."),
    "view_shape": (_INTS, True, "WeightView.shape: groups, rows, columns."),
    "channel_rows": (_INT, False, "Rows of one input channel (default 1)."),
    "group_packing": (_INT, False, "ONNX groups side by side on the block diagonal of one matrix (default 1)."),
    "alpha": (_FLOAT, False, "Digital factor on the product (default 1)."),
    "beta": (_FLOAT, False, "Digital factor on the bias (default 1)."),
    "origin": (_STRING, False, "Operator type of the user's node."),
    "input_gain": (_FLOAT, False, "Set by calibrate: DAC codes per unit of input."),
    "input_signed": (_INT, False, "Set by calibrate: 1 where inputs may be negative."),
    "input_full_scale": (_FLOAT, False, "Set by calibrate: largest input that does not clip."),
    "input_basis": (_STRING, False, "Set by calibrate: where range and sign come from."),
    "weight_max": (_FLOATS, False, "Set by quantise: the weight that spans the window, one or one a column."),
    "weight_error": (_FLOAT, False, "Set by quantise: RMS error over RMS weight."),
}

FLOAT_TYPES = ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"]


def register_schemas() -> None:
    """Make `onnx.checker` and shape inference know the dialect. Calling it again does nothing."""
    if onnx.defs.has("Vmm", DOMAIN):
        return
    onnx.defs.register_schema(
        OpSchema(
            "Vmm",
            DOMAIN,
            VERSION,
            doc="A vector-matrix multiplication on crossbars, Y = (rows(X) @ matrix(W)) * alpha + beta * B.",
            inputs=[
                OpSchema.FormalParameter("X", "T", "Activation."),
                OpSchema.FormalParameter("W", "T", "Weight initializer, in the layout of the user's node."),
                OpSchema.FormalParameter("B", "T", "Bias, one a column.", param_option=OpSchema.FormalParameterOption.Optional),
            ],
            outputs=[OpSchema.FormalParameter("Y", "T", "Product.")],
            type_constraints=[("T", FLOAT_TYPES, "A real type.")],
            attributes=[
                OpSchema.Attribute(name, kind, description=doc, required=required)
                for name, (kind, required, doc) in VMM_ATTRIBUTES.items()
            ],
        )
    )
