"""Which digital operators give the same bytes for any split along the batch axis.

Only what IEEE 754 or pure movement fixes counts as proved: a vectorised exponential may round its last few elements
otherwise than the rest, and a matrix product may change its order of addition with its height.
"""

from __future__ import annotations

import onnx_ir as ir

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sqrt", "Max", "Min", "Relu", "LeakyRelu", "PRelu", "Clip"}
_ROUNDING = {"Floor", "Ceil", "Round", "Sign", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "BitShift", "Mod"}
_LOGIC = {"And", "Or", "Not", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where", "IsNaN", "IsInf"}
_POOLING = {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}
_MOVEMENT = {
    "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Pad", "Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip
EXACT_OPERATORS = frozenset(_ARITHMETIC | _ROUNDING | _LOGIC | _POOLING | _MOVEMENT)


def splits_exactly(node: ir.Node) -> bool:
    """Whether the node is proved to give the same bytes for any split of the batch."""
    return node.domain in ("", "ai.onnx") and node.op_type in EXACT_OPERATORS
