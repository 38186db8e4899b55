"""Small models that between them have every kind of step, layer and target setting."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx

import cimc

CONV = (
    """conv (float[N, 2, 5, 5] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 0, 1, 0]> (x, w1, b1)  c = Relu (a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  f = Flatten (p)  y = Gemm <transB = 1> (f, w2, b2)
}""",
    {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (3, 8), "b2": (3,)},
    (2, 5, 5),
)
DENSE = (
    """dense (float[N, 3, 6] x) => (float[N, 3, 5] y) { a = MatMul (x, w1)  c = Tanh (a)  y = MatMul (c, w2) }""",
    {"w1": (6, 9), "w2": (9, 5)},
    (3, 6),
)
TRANSPOSED = (
    """transposed (float[N, 2, 3, 3] x) => (float[N, 3, 5, 5] y) {
    c = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2], pads = [0, 1, 1, 0]> (x, w1, b1)  y = Sigmoid (c)
}""",
    {"w1": (2, 3, 2, 2), "b1": (3,)},
    (2, 3, 3),
)
IMAGES = 4


def model(which: tuple[str, dict[str, tuple[int, ...]], tuple[int, ...]]) -> onnx.ModelProto:
    """With random weights, the same at each call."""
    text, weights, _ = which
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name))
    return proto


def images(shape: tuple[int, ...]) -> Any:
    """A batch of inputs."""
    return np.random.default_rng(1).uniform(0, 1, (IMAGES, *shape)).astype(np.float32)


@cache
def programs() -> dict[str, cimc.Program]:
    """By name; arrays are so small that matrices are cut both ways."""
    small = {"array.rows": 16, "array.columns": 16}
    made = {}
    for name, which, target, settings in (
        ("conv", CONV, "bulk-rram", small),
        ("dense", DENSE, "isaac", {"array.rows": 8, "array.columns": 48}),
        ("transposed", TRANSPOSED, "bulk-rram-256", small),
    ):
        calibration = {"x": images(which[2])}
        made[name] = cimc.compile(model(which), target=target, calibration=calibration, settings=settings)
    return made
