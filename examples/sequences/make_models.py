"""Write two small sequence classifiers of MNIST as ONNX, with fresh weights: a recurrent network and a transformer encoder.

The nodes are those that PyTorch exports: one `LSTM` (or `GRU`, `RNN`) node over the 28 rows of an image, of a static length,
the batch symbolic; for the transformer, a convolution that cuts the image into 7x7 patches, then MatMul and Add, Reshape and
Transpose, Softmax, Gelu, LayerNormalization. Fresh weights are drawn as PyTorch draws them: uniform, within
1 / sqrt(fan_in), of a recurrent node 1 / sqrt(hidden).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

Array = NDArray[np.float32]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, PIXELS, CLASSES = 28, 28, 10
SIDE, PATCHES = 7, 16


def recurrent(cell: str = "LSTM", hidden: int = 64, seed: int = 0) -> onnx.ModelProto:
    """Images ``[N, 28, 28]`` read row by row; the last state gives the class.

    Args:
        cell: ``LSTM``, ``GRU`` (reset after the product, as PyTorch's) or ``RNN``.
        hidden: Size of the state.
        seed: Of the fresh weights.
    """
    random, rows = np.random.default_rng(seed), GATES[cell] * hidden
    reset = ", linear_before_reset = 1" if cell == "GRU" else ""
    text = f"""recurrent (float[N, {STEPS}, {PIXELS}] input) => (float[N, {CLASSES}] logits) {{
        rows = Transpose <perm = [1, 0, 2]> (input)
        states, last = {cell} <hidden_size = {hidden}{reset}> (rows, W, R, B)
        axis = Constant <value_ints = [0]> ()  state = Squeeze (last, axis)
        logits = Gemm <transB = 1> (state, head_weight, head_bias)
    }}"""
    weights = {
        "W": _uniform(random, hidden, 1, rows, PIXELS),
        "R": _uniform(random, hidden, 1, rows, hidden),
        "B": _uniform(random, hidden, 1, 2 * rows),
        "head_weight": _uniform(random, hidden, CLASSES, hidden),
        "head_bias": np.zeros(CLASSES, np.float32),
    }
    return _model(text, weights)


def transformer(width: int = 64, heads: int = 2, blocks: int = 2, seed: int = 0) -> onnx.ModelProto:
    """Images ``[N, 1, 28, 28]`` as 16 patches with a learned position each, encoder blocks, the mean of the tokens.

    Each block normalises before attention and before the two dense layers, of twice the width, and adds what it was given.

    Args:
        width: Of a token.
        heads: Of the attention; each has ``width / heads`` of a token.
        blocks: How many.
        seed: Of the fresh weights.
    """
    random, size = np.random.default_rng(seed), width // heads
    weights = {
        "patch_weight": _uniform(random, SIDE * SIDE, width, 1, SIDE, SIDE),
        "patch_bias": np.zeros(width, np.float32),
        "position": random.normal(0, 0.02, (1, PATCHES, width)).astype(np.float32),
        "norm_scale": np.ones(width, np.float32),
        "norm_bias": np.zeros(width, np.float32),
        "head_weight": _uniform(random, width, CLASSES, width),
        "head_bias": np.zeros(CLASSES, np.float32),
    }
    body, token = "", "t0"
    for index in range(blocks):
        weights |= _block_weights(random, f"b{index}", width)
        body += _BLOCK.replace("$", f"b{index}_").replace("@in", token).replace("@out", f"t{index + 1}")
        token = f"t{index + 1}"
    text = f"""transformer (float[N, 1, 28, 28] input) => (float[N, {CLASSES}] logits) {{
        split = Constant <value = int64[5] {{0, {PATCHES}, 3, {heads}, {size}}}> ()
        flat = Constant <value = int64[3] {{0, {PATCHES}, {width}}}> ()
        tokens = Constant <value = int64[3] {{0, {width}, {PATCHES}}}> ()
        shrink = Constant <value = float {{{size**-0.5}}}> ()  one = Constant <value_ints = [1]> ()
        patches = Conv <strides = [{SIDE}, {SIDE}]> (input, patch_weight, patch_bias)
        columns = Reshape (patches, tokens)  embedded = Transpose <perm = [0, 2, 1]> (columns)  t0 = Add (embedded, position)
        {body}
        normed = LayerNormalization <axis = -1> ({token}, norm_scale, norm_bias)
        pooled = ReduceMean <keepdims = 0> (normed, one)
        logits = Gemm <transB = 1> (pooled, head_weight, head_bias)
    }}"""
    return _model(text, weights)


#: An encoder block: ``$`` stands for its prefix. Queries, keys and values come from one product, heads stand on an axis.
_BLOCK = """
    $n1 = LayerNormalization <axis = -1> (@in, $norm1_scale, $norm1_bias)
    $p = MatMul ($n1, $qkv_weight)  $pb = Add ($p, $qkv_bias)  $s = Reshape ($pb, split)
    $h = Transpose <perm = [2, 0, 3, 1, 4]> ($s)  $q0, $k0, $v0 = Split <axis = 0, num_outputs = 3> ($h)
    zero$ = Constant <value_ints = [0]> ()
    $q = Squeeze ($q0, zero$)  $k = Squeeze ($k0, zero$)  $v = Squeeze ($v0, zero$)
    $kt = Transpose <perm = [0, 1, 3, 2]> ($k)  $l = MatMul ($q, $kt)  $ls = Mul ($l, shrink)  $a = Softmax <axis = -1> ($ls)
    $m = MatMul ($a, $v)  $mt = Transpose <perm = [0, 2, 1, 3]> ($m)  $mf = Reshape ($mt, flat)
    $o = MatMul ($mf, $out_weight)  $ob = Add ($o, $out_bias)  $r = Add (@in, $ob)
    $n2 = LayerNormalization <axis = -1> ($r, $norm2_scale, $norm2_bias)
    $u = MatMul ($n2, $up_weight)  $ub = Add ($u, $up_bias)  $g = Gelu ($ub)
    $d = MatMul ($g, $down_weight)  $db = Add ($d, $down_bias)  @out = Add ($r, $db)
"""


def _block_weights(random: np.random.Generator, name: str, width: int) -> dict[str, Array]:
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 2 * width), "down": (2 * width, width)}
    weights = {f"{name}_{part}_weight": _uniform(random, rows, rows, columns) for part, (rows, columns) in sizes.items()}
    weights |= {f"{name}_{part}_bias": np.zeros(columns, np.float32) for part, (_, columns) in sizes.items()}
    for norm in ("norm1", "norm2"):
        weights |= {f"{name}_{norm}_scale": np.ones(width, np.float32), f"{name}_{norm}_bias": np.zeros(width, np.float32)}
    return weights


def _uniform(random: np.random.Generator, fan_in: int, *shape: int) -> Array:
    return random.uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in), shape).astype(np.float32)


def _model(text: str, weights: dict[str, Array]) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 20], producer_name: "sequences"> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
    onnx.checker.check_model(model, full_check=True)
    return model


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "lstm": lambda: recurrent("LSTM"),
    "gru": lambda: recurrent("GRU"),
    "rnn": lambda: recurrent("RNN"),
    "transformer": transformer,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("models", nargs="*", default=["lstm", "transformer"], help=", ".join(MODELS))
    arguments.add_argument("--output", type=Path, default=Path(), help="folder")
    options = arguments.parse_args()
    for name in options.models:
        onnx.save(MODELS[name](), options.output / f"{name}.onnx")


if __name__ == "__main__":
    main()
