"""VGG-8 as ONNX: 3x3 convolutions of 32, 32, 64, 64, 128 and 128 channels, pooled after every second, dense 128, dense classes.

These widths give the cost that arXiv 2305.14547 states for images of 3x32x32. A batch normalisation follows each layer but the
last, whose logits are scaled by `Gemm`'s alpha: so the weights themselves may span the same window everywhere.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = ((32, 32), (64, 64), (128, 128))
DENSE = 128
ALPHA = 0.125


def vgg8(channels: int, size: int, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """The network with fresh weights (He's normal initialisation), for images ``[N, channels, size, size]``."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def keep(name: str, array: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(name: str, *shape: int) -> str:
        return keep(f"{name}.weight", random.normal(0, sqrt(2 / prod(shape[1:])), shape))

    def normed_relu(value: str, name: str, width: int) -> str:
        parts = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "var": np.ones}
        held = [keep(f"{name}.norm.{part}", make(width)) for part, make in parts.items()]
        return add("Relu", [add("BatchNormalization", [value, *held], f"{name}.norm")], f"{name}.relu")

    side = size
    value, width = "input", channels
    for stage, pair in enumerate(CHANNELS, 1):
        for number, wider in enumerate(pair, 1):
            name = f"conv{stage}_{number}"
            value = add("Conv", [value, weight(name, wider, width, 3, 3)], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            value, width = normed_relu(value, name, wider), wider
        value = add("MaxPool", [value], f"pool{stage}", kernel_shape=[2, 2], strides=[2, 2])
        size //= 2
    value = add("Flatten", [value], "flat")
    value = normed_relu(add("Gemm", [value, weight("fc1", DENSE, width * size**2)], "fc1", transB=1), "fc1", DENSE)
    add("Gemm", [value, weight("fc2", classes, DENSE), keep("fc2.bias", np.zeros(classes))], "logits", transB=1, alpha=ALPHA)
    graph = helper.make_graph(
        nodes,
        "vgg8",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", channels, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
