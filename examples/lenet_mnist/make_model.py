"""Train the LeNet of arXiv 2305.14547 on MNIST in FP32, in plain numpy, and write it as ONNX.

Network: 1x28x28, conv 5x5 to 4 channels, ReLU, 2x2 max pool, conv 5x5 to 12, ReLU, 2x2 max pool, dense 192 to 10; no
padding and no biases, so 3,220 weights as in the paper. Images are scaled to 0...1 outside the model.

Weights are kept within +-2.05 sqrt(2 / fan_in) of their layer, and each batch sees them with Gaussian noise of a share
of that window, because the conductances of a chip will be off by as much. What is written are the clean FP32 weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cimc.datasets import mnist

Array = NDArray[np.float32]
Weights = dict[str, Array]

SHAPES = {"conv1": (4, 1, 5, 5), "conv2": (12, 4, 5, 5), "fc": (10, 192)}
#: Largest weight of each layer.
WINDOWS = {name: 2.05 * float(np.sqrt(2 / np.prod(shape[1:]))) for name, shape in SHAPES.items()}


def initial_weights(random: np.random.Generator) -> Weights:
    """He's normal initialisation, clipped to the window."""
    weights = {}
    for name, shape in SHAPES.items():
        drawn = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        weights[name] = np.clip(drawn, -WINDOWS[name], WINDOWS[name]).astype(np.float32)
    return weights


def conv(x: Array, w: Array) -> tuple[Array, Array]:
    """Convolution of NHWC ``x`` with OIHW ``w``: the result in NHWC, and the rows ``[n, h, w, c * 25]``."""
    windows = sliding_window_view(x, (5, 5), axis=(1, 2))
    rows = np.ascontiguousarray(windows).reshape(*windows.shape[:3], -1)
    return rows @ w.reshape(len(w), -1).T, rows


def relu_pool(x: Array) -> tuple[Array, NDArray[np.bool_]]:
    """ReLU and 2x2 max pooling of NHWC ``x``, and which input each output came from."""
    n, h, w, c = x.shape
    cells = x.reshape(n, h // 2, 2, w // 2, 2, c)
    largest = cells.max((2, 4), keepdims=True)
    return np.maximum(largest[:, :, 0, :, 0], 0), (cells == largest) & (cells > 0)


def unpool(gradient: Array, origin: NDArray[np.bool_]) -> Array:
    spread: Array = gradient[:, :, None, :, None] * origin
    n, h, _, w, _, c = spread.shape
    return spread.reshape(n, 2 * h, 2 * w, c)


def forward(weights: Weights, x: Array) -> tuple[Array, tuple[Any, ...]]:
    """Logits of images ``[n, 28, 28]``, and what the backward pass needs."""
    y1, rows1 = conv(x[..., None], weights["conv1"])
    h1, origin1 = relu_pool(y1)
    y2, rows2 = conv(h1, weights["conv2"])
    h2, origin2 = relu_pool(y2)
    flat = h2.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return flat @ weights["fc"].T, (rows1, origin1, rows2, origin2, flat)


def gradients(weights: Weights, x: Array, y: NDArray[Any]) -> tuple[Weights, float]:
    """Gradient of the mean cross entropy by weight, and its value."""
    logits, (rows1, origin1, rows2, origin2, flat) = forward(weights, x)
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(1, keepdims=True)
    index = np.arange(len(y))
    loss = float(-np.log(p[index, y] + 1e-12).mean())
    p[index, y] -= 1
    d = p / len(y)
    grads = {"fc": d.T @ flat}
    d2 = unpool((d @ weights["fc"]).reshape(-1, 12, 4, 4).transpose(0, 2, 3, 1), origin2)
    grads["conv2"] = (d2.reshape(-1, 12).T @ rows2.reshape(-1, 100)).reshape(SHAPES["conv2"])
    drows = (d2 @ weights["conv2"].reshape(12, -1)).reshape(-1, 8, 8, 4, 5, 5)
    dh1 = np.zeros((len(x), 12, 12, 4), np.float32)
    for i in range(5):
        for j in range(5):
            dh1[:, i : i + 8, j : j + 8] += drows[..., i, j]
    d1 = unpool(dh1, origin1)
    grads["conv1"] = (d1.reshape(-1, 4).T @ rows1.reshape(-1, 25)).reshape(SHAPES["conv1"])
    return grads, loss


def accuracy(weights: Weights, x: Array, y: NDArray[Any]) -> float:
    right = sum(int((forward(weights, x[i : i + 500])[0].argmax(1) == y[i : i + 500]).sum()) for i in range(0, len(x), 500))
    return right / len(x)


def perturbed(weights: Weights, share: float, random: np.random.Generator) -> Weights:
    """Weights with Gaussian noise of ``share`` of each layer's window."""
    return {k: w + share * WINDOWS[k] * random.standard_normal(w.shape, np.float32) for k, w in weights.items()}


def train(weights: Weights, x: Array, y: NDArray[Any], epochs: int, noise: float, random: np.random.Generator) -> Weights:
    """AdamW (0.9, 0.999, decay 0.01) from 0.004 down to 0 on a cosine, batch 64."""
    batch, steps = 64, epochs * (len(x) // 64)
    first = {k: np.zeros_like(w) for k, w in weights.items()}
    second = {k: np.zeros_like(w) for k, w in weights.items()}
    step = 0
    for epoch in range(epochs):
        begin, losses, order = time.perf_counter(), [], random.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            grads, loss = gradients(perturbed(weights, noise, random) if noise else weights, x[chosen], y[chosen])
            losses.append(loss)
            step += 1
            rate = 0.004 * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, w in weights.items():
                first[k] = 0.9 * first[k] + 0.1 * grads[k]
                second[k] = 0.999 * second[k] + 0.001 * grads[k] ** 2
                unbiased = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
                moved = w * (1 - rate * 0.01) - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
                weights[k] = np.clip(moved, -WINDOWS[k], WINDOWS[k]).astype(np.float32)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.perf_counter() - begin:.1f} s", flush=True)
    return weights


def to_onnx(weights: Weights) -> onnx.ModelProto:
    """The network as an ONNX model, opset 17, batch dimension "N"."""
    node = helper.make_node
    nodes = [
        node("Conv", ["input", "conv1.weight"], ["conv1_out"], "conv1", kernel_shape=[5, 5]),
        node("Relu", ["conv1_out"], ["relu1_out"], "relu1"),
        node("MaxPool", ["relu1_out"], ["pool1_out"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pool1_out", "conv2.weight"], ["conv2_out"], "conv2", kernel_shape=[5, 5]),
        node("Relu", ["conv2_out"], ["relu2_out"], "relu2"),
        node("MaxPool", ["relu2_out"], ["pool2_out"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool2_out"], ["flat"], "flatten"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(w, f"{name}.weight") for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="lenet_mnist")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.15, help="weight noise in training, as a share of the window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("lenet.onnx"))
    options = parser.parse_args()

    data = mnist()
    x_train, x_test = (data[k].astype(np.float32) / 255 for k in ("x_train", "x_test"))
    random = np.random.default_rng(options.seed)
    weights = initial_weights(random)
    onnx.save(to_onnx(weights), options.output.with_name(options.output.stem + "_init.onnx"))
    weights = train(weights, x_train, data["y_train"], options.epochs, options.noise, random)
    onnx.save(to_onnx(weights), options.output)
    print(f"accuracy on the 10,000 test images: {accuracy(weights, x_test, data['y_test']):.4f}")
    off = [accuracy(perturbed(weights, 0.1, random), x_test, data["y_test"]) for _ in range(10)]
    print(f"with weights off by 10 % of the window, ten draws: {min(off):.4f} to {max(off):.4f}")


if __name__ == "__main__":
    main()
