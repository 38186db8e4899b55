"""Synthetic pictures: values, edges and flat areas as stated; keyed; and sizes that the model leaves open."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from cimc.ir.samples import keyed
from cimc.passes.base import Compilation
from cimc.passes.calibrate import Calibrate
from cimc.passes.manager import PassManager
from cimc.passes.pictures import BLOCKS, SATURATED, pictures, spatial_axes
from cimc.passes.select import Select
from cimc.targets.description import Adc, Dac, Device, Target


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 3, 8, 9), (2, 3)),
        ((1, 8, 9, 3), (1, 2)),
        ((1, 1, 28, 1), (2, 3)),
        ((1, 2, 5, 6, 7), (2, 3, 4)),
        ((1, 9, 2), (1,)),
        ((1, 2, 9), (2,)),
        ((1, 9), ()),
    ],
)
def test_where_a_picture_extends(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    assert spatial_axes(shape) == axes


@pytest.mark.parametrize("shape", [(2, 3, 37, 50), (2, 37, 50, 3), (2, 37, 3), (2, 2, 9, 10, 11)])
def test_shape_range_and_key(shape: tuple[int, ...]) -> None:
    x = pictures(shape, keyed("a"))
    assert x.shape == shape
    assert x.dtype == np.float32
    assert 0 <= x.min() < x.max() <= 1
    np.testing.assert_array_equal(x, pictures(shape, keyed("a")))
    assert not np.array_equal(x, pictures(shape, keyed("b")))
    assert not np.array_equal(x[0], x[1])


def test_three_quarters_of_the_blocks_are_black_or_white() -> None:
    x = pictures((64, 1, 160, 160), keyed(0))
    # Blocks of all sizes have the same share; the largest are 6,400 draws or fewer, 5 sigma of a share of that are 0.03.
    assert np.isin(x, (0, 1)).mean() == pytest.approx(SATURATED, abs=0.03)
    assert (x == 0).mean() == pytest.approx(SATURATED / 2, abs=0.035)


def test_every_block_size_is_there() -> None:
    """Of patches as wide as the largest block, about a fifth is one value, and about a fifth differs at every step."""
    x = pictures((64, 1, 160, 160), keyed(1)).reshape(64, 10, 16, 10, 16).swapaxes(2, 3).reshape(-1, 16, 16)
    finest = [next(b for b in reversed(BLOCKS) if _constant_on(patch, b)) for patch in x]
    shares = [finest.count(b) / len(finest) for b in BLOCKS]
    # A patch of few blocks may have equal neighbours by chance, and so look coarser: 4 blocks are of one colour in 4 %.
    np.testing.assert_allclose(shares, 1 / len(BLOCKS), atol=0.03)


def _constant_on(patch: np.ndarray, size: int) -> bool:
    blocks = patch.reshape(16 // size, size, 16 // size, size)
    return bool((blocks == blocks[:, :1, :, :1]).all())


@pytest.mark.parametrize("height", [32, 48, 64])
def test_open_sizes_are_guessed_until_the_model_runs(height: int) -> None:
    body = "c = Conv <strides=[8,8]> (x, w) f = Flatten (c) y = MatMul (f, v)"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,h,w] x) => (float y) {{ {body} }}')
    width = {32: 320, 48: 320, 64: 256}[height]
    weights = {"w": np.ones((2, 3, 8, 8), np.float32), "v": np.ones((2 * (height // 8) * (width // 8), 4), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    target = Target(name="test", device=Device(levels=16), dac=Dac(bits=8), adc=Adc(bits=8))
    state = PassManager((Select(), Calibrate())).run(Compilation(ir.from_proto(model), target))
    assert f"input x: unknown dimension h taken as {height}" in "\n".join(state.notes)
    assert state.input_shapes["x"] == (1, 3, height, width)
