"""Operators that are said to give the same bytes on any number of ONNX Runtime's threads do so; others are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from cimc.ir.onnx_io import session
from cimc.runtime.thread_order import _INTEGER, _MOVING, SAME_ON_ANY, ThreadOrder

Array = NDArray[Any]
RANDOM = np.random.default_rng(4)
#: Large enough to be shared out, and no multiple of a vector.
SHAPE = (7, 61, 257)
#: What IEEE 754 fixes for each element, logic, and conversions.
FIXED = """Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip DequantizeLinear Div Dropout
    Equal Floor Greater GreaterOrEqual IsInf IsNaN LeakyRelu Less LessOrEqual Max Mean Min Mod Mul Neg Not Or PRelu QuantizeLinear
    Relu Reciprocal Round Shrink Sign Sqrt Sub Sum ThresholdedRelu Where Xor ArgMax ArgMin TopK Hardmax"""
FUNCTIONS = ("Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Pow", "Sigmoid", "Softsign", "Tanh")
ROWWISE = ("Softmax", "LogSoftmax", "LpNormalization", "GlobalAveragePool", "GlobalMaxPool")
REDUCING = [name for name in sorted(SAME_ON_ANY) if name.startswith("Reduce")]
AXES = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]


def real(*shape: int) -> Array:
    return RANDOM.uniform(-2, 2, shape).astype(np.float32)


def case(op: str, *arrays: Array, **attributes: Any) -> Any:
    return pytest.param(op, arrays, attributes, id=f"{op} {' '.join('x'.join(map(str, a.shape)) for a in arrays)}")


CASES = [
    *(case(op, real(*SHAPE)) for op in ROWWISE),
    case("MeanVarianceNormalization", real(2, 3, 61, 257)),
    *(case(op, real(*SHAPE), np.array(axes)) for op in REDUCING for axes in AXES),
    case("CumSum", real(*SHAPE), np.array(1)),
    case("AveragePool", real(2, 5, 61, 57), kernel_shape=[3, 3]),
    case("MaxPool", real(2, 5, 61, 57), kernel_shape=[3, 3]),
    case("Resize", real(2, 5, 61, 57), np.array([], np.float32), np.array([1, 1, 1.7, 2.3], np.float32), mode="linear"),
    case("Resize", real(2, 5, 31, 37), np.array([], np.float32), np.array([1, 1, 1.7, 2.3], np.float32), mode="cubic"),
    case("BatchNormalization", real(4, 6, 61, 57), *(abs(real(6)) for _ in range(4))),
    case("InstanceNormalization", real(4, 6, 61, 57), real(6), real(6)),
    case("GroupNormalization", real(4, 6, 61, 57), real(6), real(6), num_groups=3),
    case("LayerNormalization", real(*SHAPE), real(257), real(257)),
    case("RMSNormalization", real(*SHAPE), real(257)),
    case("SoftmaxCrossEntropyLoss", real(3001, 10), RANDOM.integers(0, 10, 3001)),
    case("NegativeLogLikelihoodLoss", real(3001, 10), RANDOM.integers(0, 10, 3001)),
    # Products of at most 128 terms, of which each thread gets few columns.
    case("MatMul", real(64, 128), real(128, 100)),
    case("MatMul", real(200, 128), real(128, 40)),
    case("MatMul", real(1, 128), real(128, 4000)),
    case("MatMul", real(8, 4, 50, 128), real(8, 4, 128, 50)),
    case("MatMul", real(128, 30), real(30, 128)),
    case("Gemm", real(128, 64), real(100, 128), transA=1, transB=1),
    case("Gemm", real(64, 128), real(128, 100), real(100)),
    case("Conv", real(4, 14, 14, 14), real(64, 14, 3, 3)),
    case("Conv", real(1, 128, 9, 9), real(256, 128, 1, 1)),
    case("Conv", real(4, 32, 28, 28), real(32, 1, 3, 3), group=32),
    case("ConvTranspose", real(4, 64, 7, 7), real(64, 32, 3, 3)),
]


def model(op: str, arrays: tuple[Array, ...], attributes: dict[str, Any]) -> tuple[bytes, dict[str, Array]]:
    names = [f"x{i}" if array.size else "" for i, array in enumerate(arrays)]
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if name}
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g", inputs, [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString(), feeds


def test_every_operator_of_the_list_is_tried_or_cannot_differ() -> None:
    tried = {str(parameters.values[0]) for parameters in CASES}
    assert {*tried, *FUNCTIONS, *f"{FIXED} {_MOVING} {_INTEGER}".split()} >= SAME_ON_ANY


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_function_of_each_element_does_not_depend_on_its_place(op: str) -> None:
    """A thread's share may begin and end anywhere."""
    values = [abs(real(2003)), real(2003)] if op == "Pow" else [real(2003)]
    made, _ = model(op, tuple(values), {})
    parsed = onnx.ModelProto.FromString(made)
    for value in parsed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    runner = session(parsed.SerializeToString(), {}, threads=1)
    whole = runner.run(None, {f"x{i}": array for i, array in enumerate(values)})[0]
    for size in (1, 3, 5, 7, 9, 13, 17):
        parts = [runner.run(None, {f"x{i}": a[at : at + size] for i, a in enumerate(values)})[0] for at in range(0, 2003, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("op", "arrays", "attributes"), CASES)
def test_the_same_bytes_on_any_number_of_threads(op: str, arrays: tuple[Array, ...], attributes: dict[str, Any]) -> None:
    made, feeds = model(op, arrays, attributes)
    assert ThreadOrder(onnx.ModelProto.FromString(made)).same_on_any({name: array.shape for name, array in feeds.items()})
    for optimise in (False, True):
        runs = [session(made, {}, optimise=optimise, threads=number).run(None, feeds)[0].tobytes() for number in (1, 2, 3, 7)]
        assert set(runs) == {runs[0]}


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        case("MatMul", real(64, 129), real(129, 100)),
        case("Gemm", real(129, 64), real(100, 129), transA=1, transB=1),
        case("Conv", real(4, 15, 14, 14), real(64, 15, 3, 3)),
        case("ConvTranspose", real(4, 129, 7, 7), real(129, 32, 3, 3)),
        case("LSTM", real(20, 8, 10), real(1, 32, 10), real(1, 32, 8), hidden_size=8),
        case("Einsum", real(3, 4), real(4, 5), equation="ij,jk->ik"),
        case("Elu", real(3, 4)),
    ],
)
def test_longer_products_and_other_operators_are_told_apart(
    op: str, arrays: tuple[Array, ...], attributes: dict[str, Any]
) -> None:
    made, feeds = model(op, arrays, attributes)
    assert not ThreadOrder(onnx.ModelProto.FromString(made)).same_on_any({name: array.shape for name, array in feeds.items()})


def test_sizes_of_each_run_decide() -> None:
    """A segment states no sizes of values that other steps make."""
    text = "g (float[] a, float[] b) => (float[] y) { t = Transpose (b)  y = MatMul (a, t) }"
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    for value in made.graph.input:
        value.type.tensor_type.ClearField("shape")
    order = ThreadOrder(made)
    assert order.same_on_any({"a": (5, 128), "b": (7, 128)})
    assert not order.same_on_any({"a": (5, 129), "b": (7, 129)})
    assert not order.same_on_any({})
