"""Small models and chips for tests of the error budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import cimc

#: Of the first layer, and of the second.
INPUTS, HIDDEN, CLASSES = 24, 16, 4

SCALES = {"weights.window": "largest", "weights.scale": "layer", "dac.full_scale": "largest"}


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {
        "w1": random.normal(0, 0.3, (INPUTS, HIDDEN)).astype(np.float32),
        "b1": random.normal(0, 0.1, HIDDEN).astype(np.float32),
        "w2": random.normal(0, 0.4, (HIDDEN, CLASSES)).astype(np.float32),
    }


def model(body: str = "", constants: dict[str, Any] | None = None, inputs: str = f"float[N, {INPUTS}] x") -> onnx.ModelProto:
    """Two layers with a ReLU between, called fc1 and fc2; or another body."""
    body = body or "h = MatMul (x, w1)  a = Add (h, b1)  r = Relu (a)  y = MatMul (r, w2)"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> m ({inputs}) => (float[N, C] y) {{ {body} }}')
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in (weights() if constants is None else constants).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    for n, node in enumerate([node for node in proto.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")], 1):
        node.name = f"fc{n}"
    return proto


def data(count: int = 64, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 1, (count, INPUTS)).astype(np.float32)


def program(target: str = "ideal", **settings: Any) -> cimc.Program:
    """The two layers for a chip, one weight scale a layer, nothing clipped; ``a__b`` sets ``a.b``."""
    given = SCALES | {name.replace("__", "."): value for name, value in settings.items()}
    return cimc.compile(model(), target=target, calibration={"x": data()}, settings=given)
