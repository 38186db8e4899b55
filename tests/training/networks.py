"""Small networks, each a graph text for any real type, whose gradients finite differences tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cimc.passes.gradients.survey import OPSET

Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A model as ONNX text, with the shapes of its initializers, and what it trains on."""

    text: str
    weights: dict[str, tuple[int, ...]]
    inputs: dict[str, tuple[int, ...]]
    labels: tuple[int, ...]
    """Shape of the labels."""
    classes: int = 0
    """Labels lie below; 0: real targets."""
    loss: str = "softmax_cross_entropy"
    settings: dict[str, Any] = field(default_factory=dict)
    layers: int = 0
    """Crossbar layers that it has."""
    plain: str = ""
    """The same network for ONNX's reference evaluator, where that cannot run the text."""

    def model(self, opset: int = OPSET, kind: str = "float", plain: bool = False) -> onnx.ModelProto:
        """With random weights, the same at each call."""
        text = ((plain and self.plain) or self.text).replace("double", kind)
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')
        rng = np.random.default_rng(3)
        for name, shape in self.weights.items():
            array = rng.standard_normal(shape) / np.sqrt(max(1, prod(shape[1:])))
            if name.endswith(("var", "scale")):
                array = rng.uniform(0.5, 1.5, shape)
            array = array.astype(np.float32).astype(np.float64 if kind == "double" else np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return proto

    def batch(self, kind: Any = np.float32) -> tuple[dict[str, Array], Array]:
        """Inputs and labels."""
        rng = np.random.default_rng(4)
        inputs = {name: rng.uniform(0.1, 1, shape).astype(np.float32).astype(kind) for name, shape in self.inputs.items()}
        if self.classes:
            return inputs, rng.integers(0, self.classes, self.labels)
        return inputs, rng.uniform(0, 1, self.labels).astype(np.float32).astype(kind)


LENET = Network(
    """lenet (double[N, 1, 14, 14] x) => (double[N, 4] y) {
        a = Conv (x, w1, b1)  c = Relu (a)  d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
        e = Conv (d, w2, b2)  f = Relu (e)  g = Flatten (f)  y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (g, w3, b3)
    }""",
    {"w1": (3, 1, 3, 3), "b1": (3,), "w2": (4, 3, 3, 3), "b2": (4,), "w3": (4, 64), "b3": (4,)},
    {"x": (5, 1, 14, 14)},
    (5,),
    classes=4,
    layers=3,
)
CONVOLUTIONS = Network(
    """convolutions (double[N, 4, 9, 8] x) => (double[N, 3] y) {
        a = Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w1)
        n = BatchNormalization <epsilon = 1e-3> (a, n_scale, n_bias, n_mean, n_var)
        c = Relu (n)  d = Conv <group = 2, dilations = [1, 2], pads = [0, 2, 1, 1]> (c, w2, b2)  e = Sigmoid (d)
        f = Conv <group = 4, pads = [1, 1, 1, 1], strides = [1, 2]> (e, w3, b3)  g = Tanh (f)
        p = GlobalAveragePool (g)  h = Flatten (p)  y = Gemm (h, w4)
    }""",
    {
        "w1": (6, 4, 3, 2), "n_scale": (6,), "n_bias": (6,), "n_mean": (6,), "n_var": (6,), "w2": (4, 3, 2, 3), "b2": (4,),
        "w3": (8, 1, 3, 3), "b3": (8,), "w4": (8, 3),
    },
    {"x": (4, 4, 9, 8)},
    (4,),
    classes=3,
    settings={"mapping.depthwise": "analog"},
    layers=4,
)  # fmt: skip
MLP = Network(
    """mlp (double[N, 6] x) => (double[N, 2] y) {
        a = MatMul (x, w1)  c = Add (a, b1)  d = Elu (c)  e = MatMul (d, w2)  f = Add (b2, e)  y = Sigmoid (f)
    }""",
    {"w1": (6, 5), "b1": (5,), "w2": (5, 2), "b2": (2,)},
    {"x": (7, 6)},
    (7, 2),
    loss="binary_cross_entropy",
    layers=2,
)
TRANSPOSED = Network(
    """transposed (double[N, 2, 3, 4] x) => (double[N, 4, 6, 6] y) {
        a = ConvTranspose <strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]> (x, w1, b1)  c = Tanh (a)
        y = ConvTranspose <group = 2, dilations = [1, 2], pads = [1, 0, 1, 0]> (c, w2)
    }""",
    {"w1": (2, 4, 3, 2), "b1": (4,), "w2": (4, 2, 2, 2)},
    {"x": (3, 2, 3, 4)},
    (3, 4, 6, 6),
    loss="mse",
    layers=2,
    plain="""transposed (double[N, 2, 3, 4] x) => (double[N, 4, 6, 6] y) {
        a = ConvTranspose <strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]> (x, w1, b1)  c = Tanh (a)
        c1, c2 = Split <axis = 1, num_outputs = 2> (c)  u1, u2 = Split <axis = 0, num_outputs = 2> (w2)
        y1 = ConvTranspose <dilations = [1, 2], pads = [1, 0, 1, 0]> (c1, u1)
        y2 = ConvTranspose <dilations = [1, 2], pads = [1, 0, 1, 0]> (c2, u2)  y = Concat <axis = 1> (y1, y2)
    }""",
)
RECURRENT = Network(
    """recurrent (double[4, N, 3] x) => (double[N, 4] y) {
        z, h = RNN <hidden_size = 5, direction = "bidirectional"> (x, w, r, b)
        t = Transpose <perm = [1, 0, 2]> (h)  s = Constant <value = int64[2] {0, 10}> ()  f = Reshape (t, s)  y = Gemm (f, v)
    }""",
    {"w": (2, 5, 3), "r": (2, 5, 5), "b": (2, 10), "v": (10, 4)},
    {"x": (4, 6, 3)},
    (6,),
    classes=4,
    layers=5,
)
TRANSFORMER = Network(
    """transformer (double[N, 4, 6] x) => (double[N, 3] y) {
        q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)  kt = Transpose <perm = [0, 2, 1]> (k)
        l = MatMul (q, kt)  root = Constant <value = double {2.4}> ()  d = Div (l, root)  s = Softmax <axis = -1> (d)
        m = MatMul (s, v)  o = MatMul (m, wo)  ob = Add (o, bo)  r1 = Add (x, ob)
        n1 = LayerNormalization <axis = -1> (r1, n1_scale, n1_bias)
        u = MatMul (n1, wu)  ub = Add (u, bu)  g = Gelu <approximate = "tanh"> (ub)  w = MatMul (g, wd)  r2 = Add (n1, w)
        one = Constant <value_ints = [1]> ()  p = ReduceMean <keepdims = 0> (r2, one)  y = MatMul (p, wh)
    }""",
    {
        "wq": (6, 6), "wk": (6, 6), "wv": (6, 6), "wo": (6, 6), "bo": (6,), "n1_scale": (6,), "n1_bias": (6,), "wu": (6, 8),
        "bu": (8,), "wd": (8, 6), "wh": (6, 3),
    },
    {"x": (3, 4, 6)},
    (3,),
    classes=3,
    layers=7,
)  # fmt: skip

NETWORKS = {
    "lenet": LENET,
    "convolutions": CONVOLUTIONS,
    "mlp": MLP,
    "transposed": TRANSPOSED,
    "recurrent": RECURRENT,
    "transformer": TRANSFORMER,
}
