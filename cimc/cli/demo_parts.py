"""What `cimc demo` needs and does not find on the machine: a small network, and pictures to train it on."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

#: Convolutions 5×5 and 3×3, each with ReLU and max pooling, and a dense layer.
_GRAPH = """<ir_version: 8, opset_import: ["": 17]> demo (float[batch, 1, 28, 28] input) => (float[batch, 10] logits) {
    a = Conv <kernel_shape = [5, 5]> (input, conv1_weight, conv1_bias)  b = Relu (a)
    c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    d = Conv <kernel_shape = [3, 3]> (c, conv2_weight, conv2_bias)  e = Relu (d)
    f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
    g = Flatten (f)
    logits = Gemm <transB = 1> (g, fc_weight, fc_bias)
}"""
_SHAPES = {"conv1": (8, 1, 5, 5), "conv2": (16, 8, 3, 3), "fc": (10, 400)}


def network(seed: int) -> onnx.ModelProto:
    """A convolutional network for 28×28 grey images and ten classes, untrained: He's initial weights."""
    model, random = onnx.parser.parse_model(_GRAPH), np.random.default_rng(seed)
    names = iter(_SHAPES)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            node.name = next(names)
    for name, shape in _SHAPES.items():
        weight = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        arrays = {f"{name}_weight": weight, f"{name}_bias": np.zeros(shape[0], np.float32)}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in arrays.items())
    return model


def pictures(seed: int, train: int = 4000, test: int = 1000) -> dict[str, NDArray[np.generic]]:
    """Made-up pictures of ten classes, as uint8 ``[images, 28, 28]``: a pattern of bars a class, moved and noisy."""
    random = np.random.default_rng(seed)
    coarse = random.random((10, 7, 7)) < 0.4
    held: dict[str, NDArray[np.generic]] = {}
    for part, count in (("train", train), ("test", test)):
        labels = random.integers(0, 10, count)
        images = coarse[labels].repeat(4, axis=1).repeat(4, axis=2) * 180.0
        for image, (down, right) in zip(images, random.integers(-2, 3, (count, 2)), strict=True):
            image[:] = np.roll(image, (down, right), (0, 1))
        images += random.normal(0, 60, images.shape)
        held |= {f"x_{part}": images.clip(0, 255).astype(np.uint8), f"y_{part}": labels}
    return held
