"""A small classifier and a task it learns: which of three stripes is brightest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import cimc

TEXT = """small (float[N, 1, 6, 6] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3]> (x, w1, b1)  c = Relu (a)  f = Flatten (c)  y = Gemm <transB = 1> (f, w2)
}"""
NORMED = """normed (float[N, 1, 6, 6] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3]> (x, w1)  n = BatchNormalization (a, s, b, mean, var)  c = Relu (n)
    r = Constant <value_float = 0.25> ()  d = Dropout (c, r)  f = Flatten (d)  y = Gemm <transB = 1> (f, w2)
}"""


def model(text: str = TEXT) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "w1": random.normal(0, 0.3, (4, 1, 3, 3)),
        "b1": np.zeros(4),
        "w2": random.normal(0, 0.15, (3, 64)),
        "s": np.ones(4),
        "b": np.zeros(4),
        "mean": np.zeros(4),
        "var": np.ones(4),
    }
    used = {name for node in proto.graph.node for name in node.input}
    arrays = [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items() if n in used]
    proto.graph.initializer.extend(arrays)
    return proto


def data(images: int = 192, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, images)
    x = random.uniform(0, 0.5, (images, 1, 6, 6)).astype(np.float32)
    for n, label in enumerate(y):
        x[n, 0, 2 * label : 2 * label + 2] += 0.5
    return x, y


def chip(target: str = "bulk-rram", seed: int = 0, text: str = TEXT, backend: str = "cpu", **settings: Any) -> cimc.Chip:
    program = cimc.compile(model(text), target=target, calibration={"x": data(32)[0]}, settings=settings or None)
    return cimc.Chip(program, seed, backend=backend)


def trainer(chip: cimc.Chip, **options: Any) -> cimc.Trainer:
    return cimc.Trainer(chip, **{"batch_size": 16, "lr": 0.01, "calibration_images": 64, **options})
