"""im2col by index, and overlap-add, against naive loops and ONNX Runtime."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from cimc.errors import DataError
from cimc.ir.geometry import Conv, ConvTranspose, Dense, WeightView
from cimc.ir.program import Layer
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.unfold import unfolding
from cimc.targets.description import Target


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    return {
        "kernel_shape": each(1, 3), "strides": each(1, 3), "dilations": each(1, 2), "spatial": each(1, 6),
        "pads": each(0, 2, 2 * rank),
        "auto_pad": draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])),
        "groups": draw(st.integers(1, 3)), "inputs": draw(st.integers(1, 2)), "outputs": draw(st.integers(1, 2)),
        "images": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 999)),
    }  # fmt: skip


def conv_of(w: dict[str, Any]) -> Conv:
    pads = w["pads"] if w["auto_pad"] == "NOTSET" else (0,) * len(w["pads"])
    geometry = Conv(**{k: w[k] for k in ("kernel_shape", "strides", "dilations", "auto_pad")}, pads=pads)
    begin, end = geometry.resolved_pads(w["spatial"])
    for size, b, e, extent in zip(w["spatial"], begin, end, geometry.extents(), strict=True):
        assume(size + b + e >= extent)
    return geometry


def onnx_runtime(op: str, x: np.ndarray, weights: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def ideal(matrix: np.ndarray) -> Crossbar:
    _, rows, columns = matrix.shape
    view = WeightView(tensor="w", split=matrix.shape, perm=(0, 1, 2), shape=matrix.shape)
    layer = Layer(name="l", weight=view, row_cuts=(0, rows), column_cuts=(0, columns))
    return Crossbar(layer, matrix, np.ones(1), Target(name="ideal"))


@settings(max_examples=60, deadline=None)
@given(windows())
def test_unfolding_gathers_what_a_naive_loop_gathers(w: dict[str, Any]) -> None:
    geometry = conv_of(w)
    channels = w["groups"] * w["inputs"]
    rows = w["inputs"] * prod(w["kernel_shape"])
    x = np.random.default_rng(w["seed"]).normal(size=(channels, *w["spatial"]))
    where = unfolding(geometry, (1, *x.shape), w["groups"], rows)
    padded = np.zeros(where.padded)
    padded[where.inner] = x
    flat = padded.reshape(-1)
    begin, _ = geometry.resolved_pads(w["spatial"])
    for g in range(w["groups"]):
        for p, pixel in enumerate(product(*map(range, geometry.output_spatial(w["spatial"])))):
            expected = []
            for c in range(g * w["inputs"], (g + 1) * w["inputs"]):
                for tap in product(*map(range, w["kernel_shape"])):
                    zipped = zip(pixel, geometry.strides, tap, geometry.dilations, begin, strict=True)
                    at = tuple(o * s + k * d - b for o, s, k, d, b in zipped)
                    inside = all(0 <= i < n for i, n in zip(at, w["spatial"], strict=True))
                    expected.append(x[(c, *at)] if inside else 0.0)
            assert (flat[g * where.group_stride + where.base[p] + where.row_offset] == expected).all()


@settings(max_examples=40, deadline=None)
@given(windows())
def test_convolution_is_that_of_onnx_runtime(w: dict[str, Any]) -> None:
    geometry = conv_of(w)
    assume(w["auto_pad"] in ("NOTSET", "VALID") or all(d == 1 for d in w["dilations"]))
    random = np.random.default_rng(w["seed"])
    x = random.normal(size=(w["images"], w["groups"] * w["inputs"], *w["spatial"])).astype(np.float32)
    weights = random.normal(size=(w["groups"] * w["outputs"], w["inputs"], *w["kernel_shape"])).astype(np.float32)
    attributes = {k: getattr(geometry, k) for k in ("strides", "dilations", "auto_pad")} | {"group": w["groups"]}
    if geometry.auto_pad == "NOTSET":
        attributes["pads"] = geometry.pads
    expected = onnx_runtime("Conv", x, weights, attributes)
    matrix = weights.reshape(w["groups"], w["outputs"], -1).transpose(0, 2, 1)
    got = ideal(matrix).multiply(x, geometry, 0)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(windows(), st.data())
def test_transposed_convolution_is_that_of_onnx_runtime(w: dict[str, Any], data: Any) -> None:
    rank = len(w["kernel_shape"])
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in w["strides"])
    pads = w["pads"] if w["auto_pad"] == "NOTSET" else (0,) * (2 * rank)
    geometry = ConvTranspose(
        **{k: w[k] for k in ("kernel_shape", "strides", "dilations")}, auto_pad="NOTSET", pads=pads, output_padding=extra
    )
    assume(min(geometry.resolved(w["spatial"])[1]) > 0)
    random = np.random.default_rng(w["seed"])
    x = random.normal(size=(w["images"], w["groups"] * w["inputs"], *w["spatial"])).astype(np.float32)
    weights = random.normal(size=(w["groups"] * w["inputs"], w["outputs"], *w["kernel_shape"])).astype(np.float32)
    attributes = {"strides": w["strides"], "dilations": w["dilations"], "group": w["groups"]}
    attributes |= {"pads": pads, "output_padding": extra}
    expected = onnx_runtime("ConvTranspose", x, weights, attributes)
    matrix = weights.reshape(w["groups"], w["inputs"], -1)
    offset = np.arange(1.0, 1 + w["groups"] * w["outputs"])
    got = ideal(matrix).multiply(x, geometry, 0, offset=offset)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected + offset.reshape(-1, *(1,) * rank), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "x_shape", "w_shape", "geometry"),
    [
        ("nk,km->nm", (3, 5), (5, 4), Dense(input_perm=(0, 1), kept=1, output_dims=(4,), output_perm=(0, 1))),
        ("btk,km->btm", (2, 3, 5), (5, 4), Dense(input_perm=(0, 1, 2), kept=2, output_dims=(4,), output_perm=(0, 1, 2))),
        ("kn,km->mn", (5, 3), (5, 4), Dense(input_perm=(1, 0), kept=1, output_dims=(4,), output_perm=(1, 0))),
        ("ngk,gkm->ngm", (3, 2, 5), (2, 5, 4), Dense(input_perm=(0, 1, 2), kept=1, output_dims=(2, 4), output_perm=(0, 1, 2))),
        ("k,km->m", (5,), (5, 4), Dense(input_perm=(0,), kept=0, output_dims=(4,), output_perm=(0,))),
    ],
)
def test_dense_products_are_einsums(equation: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], geometry: Dense) -> None:
    random = np.random.default_rng(0)
    x, weights = random.normal(size=x_shape), random.normal(size=w_shape)
    got = ideal(weights if weights.ndim == 3 else weights[None]).multiply(x, geometry, 0)
    np.testing.assert_allclose(got, np.einsum(equation, x, weights), rtol=1e-12)


def test_an_input_that_does_not_suit_is_refused() -> None:
    geometry = Conv(kernel_shape=(3,), strides=(1,), dilations=(1,), pads=(0, 0))
    with pytest.raises(DataError, match="3 channels"):
        unfolding(geometry, (1, 3, 8), 1, 6)
    with pytest.raises(DataError, match="7 values"):
        unfolding(Dense(input_perm=(0, 1), kept=1, output_dims=(2,), output_perm=(0, 1)), (4, 7), 1, 6)
