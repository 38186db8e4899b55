"""Whether the number of ONNX Runtime's threads may change what a segment gives.

ONNX Runtime shares an operator's outputs out to its threads. Most operators compute each output from the same terms in the same
order on any thread. Others do not:

- A matrix product adds up its terms in blocks, and the size of a block depends on how many columns a thread gets. The smallest
  block is 128 terms. So a product of at most 128 terms does not depend on threads, nor does one of integers.
- Some functions (Log, Sin, Elu) round the last few elements of a thread's share otherwise than the rest.
- Recurrent operators do both; of bodies, functions and other domains nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import onnx

#: Terms of the smallest block that ONNX Runtime adds up at once.
BLOCK_TERMS = 128

_ELEMENTWISE = """Abs Add And BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip
    DequantizeLinear Div Dropout Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less
    LessOrEqual Max Mean Min Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Shrink Sigmoid Sign Softsign Sqrt
    Sub Sum Tanh ThresholdedRelu Where Xor"""
_REDUCING = """ArgMax ArgMin AveragePool CumSum GlobalAveragePool GlobalMaxPool GroupNormalization Hardmax InstanceNormalization
    LayerNormalization LogSoftmax LpNormalization MaxPool MeanVarianceNormalization NegativeLogLikelihoodLoss RMSNormalization
    ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize Softmax SoftmaxCrossEntropyLoss
    TopK"""
_MOVING = """Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND Identity
    NonZero OneHot Pad Range Reshape Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze"""
_INTEGER = "ConvInteger MatMulInteger QLinearConv QLinearMatMul"
#: Operators that give the same bytes on any number of threads.
SAME_ON_ANY = frozenset(f"{_ELEMENTWISE} {_REDUCING} {_MOVING} {_INTEGER}".split())
_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


class ThreadOrder:
    """Of one segment."""

    def __init__(self, segment: onnx.ModelProto) -> None:
        self._model, nodes = segment, segment.graph.node
        plain = not segment.functions and all(node.domain in ("", "ai.onnx") for node in nodes)
        self._products = [node for node in nodes if node.op_type in _PRODUCTS]
        self._known = plain and all(node.op_type in SAME_ON_ANY | _PRODUCTS for node in nodes)
        self._found: dict[tuple[tuple[int, ...], ...], bool] = {}

    def same_on_any(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether inputs of these shapes lead to the same bytes on any number of threads."""
        if not self._known or not self._products:
            return self._known
        key = tuple(shapes.values())
        if key not in self._found:
            self._found[key] = self._short(shapes)
        return self._found[key]

    def _short(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether each product has at most so many terms; False where that is not known."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for value in model.graph.input:
            if value.name in shapes and value.type.HasField("tensor_type"):
                tensor = value.type.tensor_type
                tensor.ClearField("shape")
                tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[value.name])
        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except Exception:  # whatever it is, ONNX Runtime will say it
            return False
        sizes = {v.name: _sizes(v) for v in (*graph.input, *graph.value_info, *graph.output)}
        sizes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        return all(0 < _terms(node, sizes) <= BLOCK_TERMS for node in self._products)


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """With 0 for a size that is not known; empty where the rank is not known."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _terms(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Terms of each output; 0 where they are not known."""
    first, second = (sizes.get(name, ()) for name in node.input[:2])
    if node.op_type == "Conv":
        return _product(second[1:])
    if node.op_type == "ConvTranspose":
        return _product(second[:1])
    if node.op_type == "Gemm":
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return _product(first[:1] if turned else first[1:])
    return _product(first[-1:])


def _product(sizes: Iterable[int]) -> int:
    found = tuple(sizes)
    return prod(found) if found else 0
