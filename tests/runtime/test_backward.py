"""Gradients of crossbar products. A product is linear in each factor, so its gradients are its adjoints:
``<dY, F(X', W)> = <X', dX>`` and ``<dY, F(X, W')> = <W', dW>`` for any X' and W', with F by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cimc.compiler import compile as compile_program
from cimc.ir.geometry import Conv, WeightView
from cimc.ir.program import Layer, MaskStep, Program, VmmStep, weight_matrix
from cimc.runtime import backward
from cimc.runtime.coding import Coding
from cimc.threads import set_threads
from cimc.training.step import to_initializer

Array = NDArray[Any]

#: name -> (node over x and w, shapes of x, w)
PRODUCTS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "gemm": ("Gemm <transB = 1, alpha = 0.5> (x, w)", (5, 4), (3, 4)),
    "gemm_left": ("Gemm <transA = 1> (w, x)", (4, 5), (4, 3)),
    "matmul": ("MatMul (x, w)", (2, 3, 4), (4, 5)),
    "matmul_left": ("MatMul (w, x)", (2, 4, 3), (5, 4)),
    "matmul_stack": ("MatMul (x, w)", (2, 3, 4, 5), (3, 5, 2)),
    "einsum": ('Einsum <equation = "bhd,hdk->bkh"> (x, w)', (3, 2, 4), (2, 4, 5)),
    "conv1": ("Conv <strides = [2], pads = [1, 2]> (x, w)", (3, 2, 9), (4, 2, 3)),
    "conv2": ("Conv <strides = [2, 1], dilations = [1, 2], pads = [0, 1, 2, 3]> (x, w)", (9, 3, 7, 8), (4, 3, 3, 2)),
    "conv_plain": ("Conv (x, w)", (11, 2, 6, 6), (3, 2, 3, 3)),
    "conv3": ('Conv <auto_pad = "SAME_LOWER", strides = [1, 2, 1]> (x, w)', (2, 2, 4, 5, 3), (3, 2, 2, 3, 2)),
    "conv_grouped": ("Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)", (2, 4, 5, 5), (6, 2, 3, 3)),
    "conv_depthwise": ("Conv <group = 4, strides = [2, 2]> (x, w)", (2, 4, 7, 7), (8, 1, 3, 3)),
    "transposed": (
        "ConvTranspose <strides = [2, 3], pads = [1, 0, 0, 2], output_padding = [1, 0]> (x, w)", (2, 3, 4, 3), (3, 2, 3, 2)
    ),
    "transposed_grouped": ("ConvTranspose <group = 2, dilations = [2, 1], strides = [1, 3]> (x, w)", (2, 4, 3, 4), (4, 3, 2, 2)),
    "transposed_shape": ("ConvTranspose <strides = [2, 2], output_shape = [6, 9]> (x, w)", (2, 2, 3, 4), (2, 3, 3, 3)),
    "transposed_same": ('ConvTranspose <strides = [3], auto_pad = "SAME_UPPER"> (x, w)', (2, 2, 5), (2, 3, 4)),
}  # fmt: skip


def compiled(node: str, x: Array, w: Array, **settings: Any) -> tuple[Program, VmmStep, ort.InferenceSession]:
    """The product as a program on the ideal chip, and as a session that takes both factors."""
    out, dims, free = (", ".join(map(str, shape)) for shape in ([f"d{a}" for a in range(x.ndim)], x.shape, w.shape))

    def model(inputs: str) -> onnx.ModelProto:
        text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => (float[{out}] y) {{ y = {node} }}'
        return onnx.parser.parse_model(text)

    fixed = model(f"float[{dims}] x")
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    program = compile_program(fixed, "ideal", settings=settings or None)
    (step,) = program.vmm_steps
    both = model(f"float[{dims}] x, float[{free}] w").SerializeToString()
    return program, step, ort.InferenceSession(both, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_are_the_adjoints_of_the_product(name: str, packed: bool) -> None:
    node, x_shape, w_shape = PRODUCTS[name]
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    program, step, session = compiled(node, x, w, **{"mapping.depthwise": "analog"})
    (layer,) = program.layers
    if packed:
        if layer.weight.shape[0] == 1:
            pytest.skip("one group")
        layer = layer.model_copy(update={"group_packing": layer.weight.shape[0]})
        program = program.model_copy(update={"layers": (layer,)})
    alpha = 0.5 if "alpha" in node else 1.0
    (y,) = session.run(None, {"x": x, "w": w})
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx = backward.activation_gradient(dy, weight_matrix(program, layer), x.shape, step.geometry, alpha)
    dw = to_initializer(layer, backward.weight_gradient(x, dy, layer, step.geometry, alpha), w.shape)
    assert (dx.shape, dw.shape) == (x.shape, w.shape)
    assert dx.dtype == dw.dtype == np.float32
    for _ in range(4):
        x2, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
        for moved, gradient, product in ((x2, dx, {"x": x2, "w": w}), (w2, dw, {"x": x, "w": w2})):
            (y2,) = session.run(None, product)
            left, right = (dy.astype(np.float64) * y2).sum(), (gradient.astype(np.float64) * moved).sum()
            assert left == pytest.approx(right, abs=1e-5 * float(np.abs(dy * y2).sum()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("images", "channels", "columns", "side", "kernel", "pad", "stride"),
    [(3, 5, 37, 20, 3, 1, 1), (40, 7, 17, 6, 3, 0, 1), (2, 1, 6, 40, 5, 2, 1), (9, 4, 9, 21, 4, 1, 2), (3, 40, 3, 1, 1, 0, 1)],
    ids=["blocks of positions", "blocks of images", "few columns", "strides", "one position"],
)
def test_gradients_are_sums_over_windows(
    images: int, channels: int, columns: int, side: int, kernel: int, pad: int, stride: int, dtype: Any
) -> None:
    """By einsum in float64, at sizes that take several tiles and blocks."""
    rng = np.random.default_rng(3)
    geometry = Conv(kernel_shape=(kernel,) * 2, strides=(stride,) * 2, dilations=(1, 1), pads=(pad,) * 4)

    def windows(x: Array) -> Array:
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]

    x, other = (rng.standard_normal((images, channels, side, side)).astype(dtype) for _ in range(2))
    matrix = rng.standard_normal((1, channels * kernel**2, columns)).astype(dtype)
    dy = rng.standard_normal((images, columns, *geometry.output_spatial((side, side)))).astype(dtype)
    layer = Layer(name="l", weight=WeightView(tensor="w", split=matrix.shape, perm=(0, 1, 2), shape=matrix.shape))
    dw = backward.weight_gradient(x, dy, layer, geometry)
    wanted = np.einsum("ncpqij,nopq->cijo", windows(x), dy.astype(np.float64), optimize=True).reshape(matrix.shape)
    assert (dw.dtype, dw.shape) == (dtype, matrix.shape)
    close = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(dw, wanted, rtol=0, atol=close * np.abs(wanted).max())
    dx = backward.activation_gradient(dy, matrix, x.shape, geometry)
    w = matrix.astype(np.float64).reshape(channels, kernel, kernel, columns)
    y = np.einsum("ncpqij,cijo->nopq", windows(other), w, optimize=True)
    assert dx.dtype == dtype
    left, right = (dy * y).sum(), (dx.astype(np.float64) * other).sum()
    assert left == pytest.approx(right, abs=close * float(np.abs(dy * y).sum()))


def test_packed_groups_have_no_gradient_between_them() -> None:
    node, x_shape, w_shape = PRODUCTS["conv_grouped"]
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    program, step, _ = compiled(node, x, w)
    layer = program.layers[0].model_copy(update={"group_packing": 2})
    dw = backward.weight_gradient(x, np.ones((2, 6, 5, 5), np.float32), layer, step.geometry)
    assert dw.shape == (1, 36, 6)
    assert (dw[0, :18, 3:] == 0).all()
    assert (dw[0, 18:, :3] == 0).all()
    assert (dw[0, :18, :3] != 0).all()


@pytest.mark.parametrize("name", ["conv2", "conv_grouped", "transposed"])
def test_the_same_bytes_for_any_number_of_threads(name: str) -> None:
    node, x_shape, w_shape = PRODUCTS[name]
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    program, step, session = compiled(node, x, w)
    dy = rng.standard_normal(session.run(None, {"x": x, "w": w})[0].shape).astype(np.float32)
    found = []
    try:
        for threads in (1, 2, 5):
            set_threads(threads)
            dx = backward.activation_gradient(dy, weight_matrix(program, program.layers[0]), x.shape, step.geometry)
            found.append((dx.tobytes(), backward.weight_gradient(x, dy, program.layers[0], step.geometry).tobytes()))
    finally:
        set_threads(None)
    assert found[0] == found[1] == found[2]


def test_a_clipped_input_has_no_gradient() -> None:
    x = np.array([[-3.0, -0.2, 0.0, 0.9, 1.1]], np.float32)
    coding = Coding(100.0, 0, 0.0, 100.0, 8, False, np.ones(1), 256.0, 255, 0.0)
    dx = backward.clip_gradient(np.full_like(x, 2), x, coding)
    assert dx.tolist() == [[0.0, 0.0, 2.0, 2.0, 0.0]]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    step = MaskStep(name="drop", input="x", output="m", ratio=0.3)
    mask = backward.dropout_mask(step, np.zeros((200, 500), np.float32), 7, 200, 0)
    n, kept = mask.size, np.float32(1 / 0.7)
    assert set(np.unique(mask)) == {np.float32(0), kept}
    assert abs((mask == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    neighbours = np.corrcoef(mask[:-1].ravel(), mask[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(n)


def test_a_dropout_mask_belongs_to_seed_step_and_image() -> None:
    step = MaskStep(name="drop", input="x", output="m", ratio=0.5)
    x = np.zeros((6, 4, 3), np.float32)
    whole = backward.dropout_mask(step, x, 1, 6, 10)
    parts = [backward.dropout_mask(step, x[:2], 1, 2, 10), backward.dropout_mask(step, x[2:], 1, 4, 12)]
    assert (np.concatenate(parts) == whole).all()
    assert (backward.dropout_mask(step, x, 2, 6, 10) != whole).any()
    assert (backward.dropout_mask(step.model_copy(update={"name": "other"}), x, 1, 6, 10) != whole).any()


def test_images_of_many_rows_share_no_dropout_with_the_next_batch() -> None:
    """Tokens that were folded into rows: four images of eight rows, then the next four."""
    step = MaskStep(name="drop", input="x", output="m", ratio=0.5)
    x = np.zeros((32, 64), np.float32)
    first, second = (backward.dropout_mask(step, x, 1, 4, image) for image in (0, 4))
    rows = {row.tobytes() for row in first}
    assert not any(row.tobytes() in rows for row in second)
