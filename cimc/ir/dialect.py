"""The ONNX dialect of the graph stages: domain ``cimc``.

``select`` replaces each node that goes to crossbars by a ``Vmm`` that keeps the node's name, its activation, its weight
initializer and its bias; ``calibrate`` and ``quantise`` add attributes to it; ``lower`` reads it. The other operators are
those of a training step: ``differentiate`` writes them.
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
    "input_clip_share": (_FLOAT, False, "Set by scales: share of the calibration inputs beyond the full scale."),
    "weight_max": (_FLOATS, False, "Set by quantise: the weight that spans the window, one or one a column."),
    "weight_error": (_FLOAT, False, "Set by quantise: RMS error over RMS weight."),
}

#: Those of a Vmm that its backward operators carry too: which layer, and how vectors and positions lie.
PLACE_ATTRIBUTES = (
    "layer", "geometry", "view_index", "view_split", "view_perm", "view_shape", "channel_rows", "group_packing", "alpha",
)  # fmt: skip
_PLACE = {name: VMM_ATTRIBUTES[name] for name in PLACE_ATTRIBUTES}

FLOAT_TYPES = ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"]

_ONE, _MAY, _MANY = (
    OpSchema.FormalParameterOption.Single,
    OpSchema.FormalParameterOption.Optional,
    OpSchema.FormalParameterOption.Variadic,
)
_Values = list[tuple[str, str, OpSchema.FormalParameterOption]]

#: operator -> (text, inputs, output, attributes)
OPERATORS: dict[str, tuple[str, _Values, tuple[str, str], dict[str, tuple[OpSchema.AttrType, bool, str]]]] = {
    "Vmm": (
        "A vector-matrix multiplication on crossbars, Y = (rows(X) @ matrix(W)) * alpha + beta * B.",
        [
            ("X", "Activation.", _ONE),
            ("W", "Weight initializer, in the layout of the user's node.", _ONE),
            ("B", "Bias, one a column.", _MAY),
        ],
        ("Y", "Product."),
        VMM_ATTRIBUTES,
    ),
    "VmmBackward": (
        "Gradient of a Vmm's activation: rows(dX) = (columns(dY) @ matrix(W)^T) * alpha, overlapping windows added up.",
        [
            ("dY", "Gradient of the product.", _ONE),
            ("W", "The weight initializer.", _ONE),
            ("X", "The activation: its shape, and where it left the DAC's range.", _ONE),
        ],
        ("dX", "Gradient of the activation."),
        _PLACE
        | {
            "mode": (_STRING, False, "digital (default): by the digital copy of W; analog: on the transposed array."),
            "ste": (_STRING, False, "pass (default): the gradient passes at saturation of the DAC; clipped: it is zero there."),
        },
    ),
    "Outer": (
        "Gradient of a Vmm's weight: the sum over positions of the outer product of rows(X) and columns(dY), times alpha.",
        [("X", "Activation, real-valued.", _ONE), ("dY", "Gradient of the product.", _ONE)],
        ("dW", "Gradient, in the shape of the weight initializer."),
        _PLACE,
    ),
    "Update": (
        "One parameter's step: by the optimizer with the sum of its gradients, or the new value itself.",
        [("P", "The initializer.", _ONE), ("G", "Gradients, or one new value.", _MANY)],
        ("Q", "The initializer after the step."),
        {
            "layer": (_STRING, False, "Crossbar layer that holds the parameter, under the target's update rule."),
            "action": (_STRING, False, "descend (default): by the optimizer; assign: G is the new value (running statistics)."),
            "scales": (_STRING, False, "Digital factors of the layer that train too: none (default), layer (one) or column."),
        },
    ),
    "MaxPoolBackward": (
        "Gradient of a MaxPool's input: each output's gradient goes to the first element of its window that equals it.",
        [("dY", "Gradient of the output.", _ONE), ("X", "The input.", _ONE), ("Y", "The output.", _ONE)],
        ("dX", "Gradient of the input."),
        {"geometry": (_STRING, True, "JSON of cimc.ir.geometry.Conv: the windows.")},
    ),
    "DropoutMask": (
        "Random factors of the shape of X: 0 with probability ratio, else 1 / (1 - ratio).",
        [("X", "Gives the shape.", _ONE)],
        ("M", "The mask."),
        {"ratio": (_FLOAT, True, "Share that is dropped.")},
    ),
}


def register_schemas() -> None:
    """Make `onnx.checker` and shape inference know the dialect. Calling it again does nothing."""
    if onnx.defs.has("Vmm", DOMAIN):
        return
    for name, (doc, inputs, output, attributes) in OPERATORS.items():
        onnx.defs.register_schema(
            OpSchema(
                name,
                DOMAIN,
                VERSION,
                doc=doc,
                inputs=[OpSchema.FormalParameter(word, "T", text, param_option=option) for word, text, option in inputs],
                outputs=[OpSchema.FormalParameter(output[0], "T", output[1])],
                type_constraints=[("T", FLOAT_TYPES, "A real type.")],
                attributes=[
                    OpSchema.Attribute(word, kind, description=text, required=required)
                    for word, (kind, required, text) in attributes.items()
                ],
            )
        )
