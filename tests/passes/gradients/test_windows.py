"""Convolutions, pools and resizing against central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cimc.errors import ModelError

from .harness import check, distinct, normal

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 5), (3, 2, 3), {}),
    ((1, 2, 7), (3, 2, 2), {"strides": [3]}),
    ((1, 2, 8), (2, 2, 2), {"dilations": [3], "pads": [1, 2]}),
    ((2, 2, 4, 5), (2, 2, 3, 2), {"pads": [1, 0, 1, 1]}),
    ((1, 2, 6, 5), (2, 2, 2, 2), {"strides": [2, 3], "pads": [1, 1, 1, 2]}),
    ((1, 1, 7, 6), (1, 1, 2, 3), {"strides": [2, 1], "dilations": [2, 2], "pads": [0, 1, 1, 0]}),
    ((2, 4, 4, 3), (6, 2, 2, 2), {"group": 2}),
    ((2, 3, 5, 4), (6, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), {"strides": [1, 2, 1], "pads": [0, 1, 0, 0, 0, 1]}),
    ((1, 1, 3, 3, 2, 2), (1, 1, 2, 2, 1, 2), {}),
    ((1, 1, 5, 5), (1, 1, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((1, 1, 5, 4), (1, 1, 2, 3), {"auto_pad": "SAME_UPPER"}),
    ((1, 1, 5, 4), (1, 1, 2, 3), {"auto_pad": "SAME_LOWER"}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONVOLUTIONS)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    check("Conv", normal(*x), normal(*w, seed=1), normal(w[0], seed=2), fixed=[1, 2], **attributes)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_conv_with_strided_auto_pad_needs_sizes(mode: str) -> None:
    x, w = normal(1, 1, 6, 5), normal(1, 1, 3, 2)
    check("Conv", x, w, auto_pad=mode, strides=[2, 2], dynamic=[False])
    with pytest.raises(ModelError, match="auto_pad needs the sizes of 'x0'") as error:
        check("Conv", x, w, auto_pad=mode, strides=[2, 2], dynamic=[True], fixed=[1])
    assert "node under test" in str(error.value)


TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 4), (2, 3, 3), {}),
    ((1, 2, 3), (2, 2, 3), {"strides": [3], "output_padding": [2]}),
    ((1, 2, 3, 4), (2, 1, 3, 2), {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    ((1, 1, 4, 3), (1, 2, 2, 2), {"dilations": [2, 3], "pads": [1, 1, 0, 1]}),
    ((2, 4, 3, 2), (4, 2, 2, 2), {"group": 2, "strides": [2, 1]}),
    ((1, 1, 2, 2, 3), (1, 1, 2, 2, 2), {"strides": [1, 2, 2]}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), TRANSPOSED)
def test_conv_transpose(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    bias = normal(w[1] * attributes.get("group", 1), seed=2)
    check("ConvTranspose", normal(*x), normal(*w, seed=1), bias, fixed=[1, 2], **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"output_shape": [6, 7]},
        {"output_shape": [7, 6], "auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "VALID"},
    ],
)
def test_conv_transpose_with_given_output(attributes: dict[str, Any]) -> None:
    check("ConvTranspose", normal(1, 1, 3, 3), normal(1, 1, 3, 4, seed=1), strides=[2, 2], dynamic=[False], **attributes)


POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 7), {"kernel_shape": [3]}),
    ((1, 2, 8), {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    ((2, 2, 4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((1, 2, 5, 5), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ((1, 2, 5, 6), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ((1, 1, 6, 6), {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 0, 1, 1]}),
    ((1, 1, 6, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ((1, 1, 5, 4), {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}),
    ((1, 1, 5, 4), {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"}),
    ((1, 1, 3, 4, 3), {"kernel_shape": [2, 2, 2], "strides": [1, 2, 1]}),
]


@pytest.mark.parametrize(("shape", "attributes"), POOLS)
def test_max_pool(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    check("MaxPool", distinct(*shape), **attributes)
    check("MaxPool", distinct(*shape), outputs=2, **attributes)


def test_max_pool_with_column_major_indices() -> None:
    options = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 1], "storage_order": 1}
    check("MaxPool", distinct(2, 2, 5, 4), **options)
    check("MaxPool", distinct(2, 2, 5, 4), outputs=2, **options)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 2, 6), {"kernel_shape": [3]}),
        ((1, 2, 5, 6), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]}),
        ((1, 1, 5, 4), {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}),
        ((1, 1, 6, 6), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ],
)
def test_lp_pool(shape: tuple[int, ...], attributes: dict[str, Any], p: int) -> None:
    check("LpPool", distinct(*shape), p=p, **attributes)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize(("shape", "attributes"), POOLS)
def test_average_pool(shape: tuple[int, ...], attributes: dict[str, Any], include: int) -> None:
    padded = {"pads", "ceil_mode", "auto_pad"} & set(attributes)
    check("AveragePool", normal(*shape), count_include_pad=include, dynamic=[False] if padded else [False, True], **attributes)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 2, 2, 3), (1, 2, 2, 2, 2)])
def test_global_pools(op: str, shape: tuple[int, ...]) -> None:
    check(op, distinct(*shape))


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, dict[str, Any]]:
    """Size, kernel and attributes of a window along one axis that fits at least once."""
    size, kernel = draw(st.integers(3, 9)), draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pads = [draw(st.integers(0, kernel - 1)) for _ in range(2)]
    assume(size + sum(pads) >= (kernel - 1) * dilation + 1)
    return size, kernel, {"strides": [stride], "dilations": [dilation], "pads": pads}


@settings(max_examples=12, deadline=None)
@given(windows(), st.sampled_from([(1, 1), (2, 2), (4, 2)]))
def test_any_convolution(window: tuple[int, int, dict[str, Any]], channels: tuple[int, int]) -> None:
    size, kernel, attributes = window
    inputs, group = channels
    check(
        "Conv", normal(2, inputs, size), normal(2 * group, inputs // group, kernel, seed=1), fixed=[1], group=group, **attributes
    )


@settings(max_examples=12, deadline=None)
@given(windows(), st.booleans(), st.booleans())
def test_any_pool(window: tuple[int, int, dict[str, Any]], ceil: bool, include: bool) -> None:
    size, kernel, attributes = window
    options = {"kernel_shape": [kernel], "ceil_mode": int(ceil), **attributes}
    check("MaxPool", distinct(1, 2, size), **options)
    check("AveragePool", normal(1, 2, size), count_include_pad=int(include), dynamic=[False], **options)


RESIZES: list[tuple[tuple[int, ...], list[float], dict[str, Any]]] = [
    ((1, 2, 3, 4), [1, 1, 2, 2], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ((1, 1, 4, 5), [1, 1, 0.5, 0.6], {"mode": "nearest"}),
    ((1, 1, 3, 4), [1, 1, 2, 1.5], {"mode": "linear"}),
    ((1, 1, 3, 4), [1, 1, 2, 3], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ((1, 1, 5, 4), [1, 1, 0.6, 2.3], {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ((1, 1, 5, 4), [1, 1, 0.5, 2], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
    ((1, 1, 4, 4), [1, 1, 2, 0.5], {"mode": "cubic", "cubic_coeff_a": -0.5}),
    ((1, 1, 6, 6), [1, 1, 0.5, 0.5], {"mode": "linear", "antialias": 1}),
    ((2, 4), [1, 2], {"mode": "linear"}),
    ((1, 2, 3), [1, 1, 2], {"mode": "nearest"}),
    ((1, 1, 2, 3, 2), [1, 1, 2, 2, 2], {"mode": "linear"}),
]


@pytest.mark.parametrize(("shape", "scales", "attributes"), RESIZES)
def test_resize_by_scales(shape: tuple[int, ...], scales: list[float], attributes: dict[str, Any]) -> None:
    check("Resize", normal(*shape), None, np.array(scales, np.float32), constants=[2], skip=[2], **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_by_sizes(mode: str) -> None:
    check("Resize", normal(1, 2, 3, 4), None, None, np.array([1, 2, 5, 3]), mode=mode, constants=[3])
    check("Resize", normal(1, 2, 3, 4), None, None, np.array([5, 3]), mode=mode, axes=[2, 3], constants=[3])


def test_resize_crop() -> None:
    roi = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8], np.float32)
    mode = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
    check("Resize", normal(1, 1, 5, 4), roi, None, np.array([1, 1, 4, 6]), constants=[1, 3], skip=[1], **mode)
