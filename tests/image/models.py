"""Small models and targets of many kinds for images."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cimc.targets.description import Target
from cimc.targets.load import load_target

#: A chip without any error or noise, small arrays, whose scales clip nothing.
EXACT = {
    "weights.window": "largest",
    "dac.full_scale": "largest",
    "device.read_sigma_us": 0,
    "device.programming.mean_us": 0,
    "device.programming.sigma_us": 0,
    "device.levels": 16,
    "weights.rounded": True,
    "array.rows": 16,
    "array.columns": 16,
    "array.tiles_per_chip": None,
    "mapping.split": "rows",
}


def exact(**changes: object) -> Target:
    """`EXACT`, with fields changed; dots are written as two underscores."""
    return load_target("bulk-rram", EXACT | {name.replace("__", "."): value for name, value in changes.items()})


def network(rows: int = 20, hidden: int = 6, columns: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Dense, ReLU, dense."""
    random = np.random.default_rng(seed)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
            helper.make_node("Relu", ["a"], ["r"], "relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second"),
        ],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w1", (rows, hidden)), ("w2", (hidden, columns)), ("b2", (columns,)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inputs(rows: int = 20, images: int = 40, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs of `network`."""
    return {"x": np.random.default_rng(seed).random((images, rows), np.float32)}
