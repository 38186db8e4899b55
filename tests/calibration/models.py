"""Small models and inputs for tests of the error forecast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

F32 = NDArray[np.float32]


def product(weight: F32) -> ModelProto:
    """``y = x @ weight``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(rng: np.random.Generator, rows: int, columns: int) -> F32:
    """Normal weights whose columns differ in size."""
    return (rng.standard_normal((rows, columns)) * rng.uniform(0.3, 2, columns)).astype(np.float32)


def inputs(rng: np.random.Generator, shape: tuple[int, ...], *, signed: bool = False) -> F32:
    """Normal inputs, or the rectified ones that a ReLU leaves."""
    x = rng.standard_normal(shape).astype(np.float32)
    return x if signed else np.maximum(x, 0)


def mean_square_db(reference: F32, errors: list[F32]) -> float:
    """Power of the reference over the mean power of some errors, dB."""
    error = np.mean([np.square(e, dtype=np.float64).sum() for e in errors])
    return float(10 * np.log10(np.square(reference, dtype=np.float64).sum() / error))
