"""The transposed read: the product's adjoint where nothing rounds, else its formula in float64, and its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.ir.encoding import level_step_us
from cimc.ir.program import VmmBackwardStep, weight_matrix
from cimc.runtime import backward, transposed
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.learn import Learning, learn
from cimc.targets.transposed import transposed_target
from cimc.threads import set_threads
from tests.runtime.crossbars import PAIR, crossbar, dense, target
from tests.runtime.test_backward import PRODUCTS, compiled

Array = NDArray[Any]

OFFSET: dict[str, Any] = {**PAIR, "array": {"unit_column": True}, "weights": {"representation": "offset", "bits": 4}}

READS = [{}, {"dac_bits": 5}, {"adc_bits": 6, "range_ua": 9.0}, {"adc_bits": 11, "dac_bits": 12}]


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    set_threads(None)


def made(base: dict[str, Any], matrix: Array, column_cuts: tuple[int, ...] | None = None, **read: Any) -> Crossbar:
    """Crossbars on a chip with a transposed read; other sections by name."""
    changes = {name: read.pop(name) for name in ("device", "adc", "dac", "weights") if name in read}
    row_cuts = read.pop("row_cuts", None)
    chip = target(base, **changes, array={"transposed": read})
    return crossbar(chip, matrix, row_cuts, column_cuts, range_ua=20.0)


def gradient(bar: Crossbar, dy: Array, key: int = 1, first_image: int = 0) -> Array:
    """Of rows of a dense product."""
    x_shape = (len(dy), bar.groups * bar.rows)
    return transposed.activation_gradient(dy, bar, x_shape, dense(bar.matrix), key, first_image)


# Where nothing rounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["ideal", "converterless"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_without_rounding_it_is_the_adjoint_of_the_product(name: str, packed: bool, chip: str) -> None:
    """``<dY, F(X', W)> = <X', dX>`` for any X', with F by ONNX Runtime."""
    node, x_shape, w_shape = PRODUCTS[name]
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    settings: dict[str, Any] = {"mapping.depthwise": "analog", "array.transposed.tile_op_ns": 1.0}
    if chip != "ideal":
        settings["weights.clip_sigma"] = 8  # clips nothing, but then the chip is not exact by name
    program, step, session = compiled(node, x, w, **settings)
    assert program.target.is_ideal == (chip == "ideal")
    (layer,) = program.layers
    if packed:
        if layer.weight.shape[0] == 1:
            pytest.skip("one group")
        layer = layer.model_copy(update={"group_packing": layer.weight.shape[0], "row_cuts": (), "column_cuts": ()})
        program = program.model_copy(update={"layers": (layer,)})
    bar = Crossbar(layer, weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], program.target)
    alpha = 0.5 if "alpha" in node else 1.0
    (y,) = session.run(None, {"x": x, "w": w})
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx = transposed.activation_gradient(dy, bar, x.shape, step.geometry, 1, 0, alpha)
    assert (dx.shape, dx.dtype) == (x.shape, np.float32)
    for _ in range(4):
        x2 = rng.standard_normal(x_shape).astype(np.float32)
        (y2,) = session.run(None, {"x": x2, "w": w})
        left, right = (dy.astype(np.float64) * y2).sum(), (dx.astype(np.float64) * x2).sum()
        assert left == pytest.approx(right, abs=1e-5 * float(np.abs(dy * y2).sum()))
    digital = backward.activation_gradient(dy, weight_matrix(program, layer), x.shape, step.geometry, alpha)
    np.testing.assert_allclose(dx, digital, atol=3e-6 * np.abs(digital).max())


def test_float64_gradients_stay_float64() -> None:
    matrix = np.random.default_rng(0).standard_normal((1, 5, 3))
    bar = made({"device": {}}, matrix)
    dy = np.random.default_rng(1).standard_normal((4, 3))
    assert bar.target.is_ideal
    np.testing.assert_allclose(gradient(bar, dy), dy @ matrix[0].T, rtol=1e-14)


def test_a_scale_for_each_column_goes_before_the_converter() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((2, 6, 4)).astype(np.float32) * np.array([1, 10, 100, 1000], np.float32)
    chip = target({"device": {}, "weights": {"clip_sigma": 8}}, array={"transposed": {}})
    bar = crossbar(chip, matrix, weight_max=np.abs(matrix).max(axis=1).reshape(-1))
    dy = rng.standard_normal((3, 8)).astype(np.float32)
    expected = np.einsum("ngc,grc->ngr", dy.reshape(3, 2, 4), matrix).reshape(3, 12)
    np.testing.assert_allclose(gradient(bar, dy), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("base", [PAIR, OFFSET], ids=["pair", "offset"])
def test_the_offset_of_every_device_cancels(base: dict[str, Any]) -> None:
    """The same window 50 µS higher: currents double, the gradient stays."""
    rng = np.random.default_rng(2)
    matrix, dy = rng.standard_normal((1, 9, 7)).astype(np.float32), rng.standard_normal((6, 7)).astype(np.float32)
    low, high = (gradient(made(base, matrix, adc_bits=24, device={"g_min_us": g, "g_max_us": g + 60}), dy) for g in (10.0, 60.0))
    np.testing.assert_allclose(low, high, atol=3e-5 * np.abs(low).max())


# With converters ------------------------------------------------------------------------------------------------------


def reference(bar: Crossbar, dy: Array) -> tuple[Array, Array]:
    """A noise-free read in float64, a tile and a phase at a time, and how near its conversions come to a rounding edge."""
    chip, read = bar.target, transposed_target(bar.target)
    volt, g_max, bits = chip.device.read_voltage_v, chip.device.g_max_us, read.dac.bits
    full, top = (1, 1) if bits is None else (2**bits, 2**bits - 1)
    tiles = list(pairwise(bar.column_cuts))
    range_ua = read.adc.range_ua or volt * g_max * max(b - a for a, b in tiles) ** 0.5
    lsb, highest = range_ua / (2 ** (read.adc.bits or 0) - 1), 2 ** (read.adc.bits or 0) - 1
    step = bar.coefficients.weight_step.reshape(bar.groups, bar.columns)
    out, edge = np.zeros((len(dy), bar.groups, bar.rows)), np.full((len(dy), bar.groups, bar.rows), 0.5)
    for n, vectors in enumerate(dy.astype(np.float64).reshape(len(dy), bar.groups, bar.columns)):
        for g in range(bar.groups):
            delta = vectors[g] * step[g]
            most = max(np.abs(delta[a:b]).sum() for a, b in tiles) * volt * g_max * top / full / range_ua
            scale = max(np.abs(delta).max(), most)
            codes = delta / scale * top
            codes = np.rint(codes) if bits is not None else codes
            plus, minus = np.maximum(codes, 0) / full, np.maximum(-codes, 0) / full
            held = bar.g_us[g].astype(np.float64)
            total = np.zeros(bar.rows)
            for a, b in tiles:
                for sign, one, two in ((1, plus, minus), (-1, minus, plus)):
                    current = held[:, 0, a:b] @ one[a:b]
                    if chip.planes == 2:
                        current = current + held[:, 1, a:b] @ two[a:b]
                    lsbs = current * volt / lsb
                    edge[n, g] = np.minimum(edge[n, g], np.abs(lsbs - np.floor(lsbs) - 0.5))
                    total += sign * np.clip(np.rint(lsbs), 0, highest) * lsb
            if chip.planes == 1:  # 4 bits: 8 level steps above the lowest
                total -= (codes / full).sum() * volt * (chip.device.g_min_us + 8 * level_step_us(chip))
            out[n, g] = total / volt / level_step_us(chip) * full / top * scale
    return out.reshape(len(dy), -1), edge.reshape(len(dy), -1)


@pytest.mark.parametrize(
    "read", [{}, {"dac_bits": 5}, {"adc_bits": 6, "range_ua": 9.0}, {"adc_bits": 11, "dac_bits": 12}], ids=str
)
@pytest.mark.parametrize("cuts", [(0, 7), (0, 3, 6, 7)], ids=["one tile", "tiles"])
@pytest.mark.parametrize("base", [PAIR, OFFSET, {**PAIR, "dac": {}}], ids=["pair", "offset", "no dac"])
def test_a_read_is_that_of_the_formula(base: dict[str, Any], cuts: tuple[int, ...], read: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((2, 10, 7)).astype(np.float32)
    bar = made(base, matrix, cuts, **read)
    dy = (rng.standard_normal((9, 14)) * 10.0 ** rng.integers(-6, 3, (9, 1))).astype(np.float32)
    wanted, edge = reference(bar, dy)
    got = gradient(bar, dy.astype(np.float64))
    clear = edge > 2e-3
    assert clear.mean() > 0.9
    largest = np.broadcast_to(np.abs(wanted).max(axis=1, keepdims=True), wanted.shape)
    assert (np.abs(got - wanted)[clear] < 1e-5 * largest[clear]).all()
    assert bar.stats.transposed_saturations == 0


def test_column_tiles_add_up_and_row_slices_lie_behind_one_another() -> None:
    """Without an ADC a cut changes no sum, and none between rows ever does."""
    rng = np.random.default_rng(4)
    matrix, dy = rng.standard_normal((1, 12, 8)).astype(np.float32), rng.standard_normal((5, 8)).astype(np.float32)
    whole, cut = (gradient(made(PAIR, matrix, cuts, adc={"bits": None}), dy) for cuts in ((0, 8), (0, 2, 3, 8)))
    np.testing.assert_allclose(whole, cut, atol=3e-6 * np.abs(whole).max())
    noisy = {"device": {"read_sigma_us": 2.0}}
    whole, cut = (gradient(made(PAIR, matrix, row_cuts=cuts, **noisy), dy) for cuts in ((0, 12), (0, 5, 12)))
    assert (whole == cut).all()


def test_reads_and_conversions_are_counted_by_phase_and_tile() -> None:
    matrix = np.ones((2, 5, 6), np.float32)
    bar = made(PAIR, matrix, (0, 4, 6), row_cuts=(0, 2, 4, 5))
    gradient(bar, np.ones((7, 12), np.float32))
    # 2 phases, 7 vectors, 2 groups: on 3 x 2 tiles, and of each group 5 word lines by 2 column tiles.
    assert bar.stats.transposed_reads == 2 * 7 * 2 * 6
    assert bar.stats.transposed_conversions == 2 * 7 * 2 * 5 * 2
    assert (bar.stats.tile_reads, bar.stats.adc_conversions, bar.stats.positions) == (0, 0, 0)


@pytest.mark.parametrize("fixed", [None, 8.0])
def test_the_range_is_filled_by_full_vectors_and_never_exceeded(fixed: float | None) -> None:
    """All columns at full δ and g_max carry the whole range; one column alone has every DAC bit."""
    columns = 16
    bar = made(PAIR, np.ones((1, 3, columns), np.float32), range_ua=fixed)
    read = transposed_target(bar.target)
    coding, cuts = transposed.coding_of(read), bar.column_cuts
    range_ua = transposed.conversion_range_ua(read, cuts)
    one_line = 0.1 * 70
    assert range_ua == (pytest.approx(one_line * 4) if fixed is None else fixed)
    assert range_ua is not None
    full, single = np.ones((1, 1, columns, 1), np.float32), np.eye(columns, dtype=np.float32)[:1].reshape(1, 1, columns, 1)
    scale_of_full = transposed.full_scale(full, cuts, read, coding, range_ua)[0, 0, 0, 0]
    assert scale_of_full == pytest.approx(one_line * columns * 255 / 256 / range_ua, rel=1e-6)
    assert transposed.full_scale(single, cuts, read, coding, range_ua)[0, 0, 0, 0] == 1
    got = gradient(bar, full.reshape(1, columns))
    assert bar.stats.transposed_saturations == 0
    # The code of a full vector is rounded to 1 / codes; what is read of it, to half an LSB of the range a phase.
    codes = 255 / scale_of_full
    assert np.abs(got / columns - 1).max() < 0.5 / codes + 1 / 255 * 70 / 60


def test_a_vector_of_zeros_drives_nothing_and_one_that_is_not_finite_spoils_itself_alone() -> None:
    matrix = np.random.default_rng(5).standard_normal((1, 4, 3)).astype(np.float32)
    bar = made(PAIR, matrix, sigma_lsb=5.0, device={"read_sigma_us": 2.0})
    dy = np.array([[1, 2, 3], [0, 0, 0], [1, np.nan, 0], [np.inf, 1, 0], [1, 2, 3]], np.float32)
    got = gradient(bar, dy)
    assert (got[1] == 0).all()
    assert not np.isfinite(got[2:4]).any()
    assert np.isfinite(got[[0, 4]]).all()
    assert gradient(bar, np.zeros((0, 3), np.float32)).shape == (0, 4)


# Noise ----------------------------------------------------------------------------------------------------------------


def test_read_noise_has_the_variance_of_independent_devices_in_two_phases() -> None:
    """(V sigma)**2 * sum((code / 2**bits)**2) a phase, and no correlation from word line to word line."""
    rng = np.random.default_rng(6)
    matrix = rng.standard_normal((1, 4, 20)).astype(np.float32)
    bar = made(PAIR, matrix, (0, 8, 20), adc={"bits": None}, device={"read_sigma_us": 1.5})
    delta, n = rng.standard_normal(20).astype(np.float32), 20_000
    got = gradient(bar, np.tile(delta, (n, 1))).astype(np.float64)
    exact = gradient(made(PAIR, matrix, (0, 8, 20), adc={"bits": None}), delta[None])[0]
    scale = np.abs(delta).max() / 255
    codes = np.rint(delta / scale)
    # In weights a device's 60 µS are the largest.
    sigma = 1.5 * np.sqrt(2 * (codes**2).sum()) * scale * np.abs(matrix).max() / 60
    assert np.abs(got.mean(axis=0) - exact).max() < 5 * sigma / n**0.5
    assert np.abs(got.std(axis=0) / sigma - 1).max() < 5 / (2 * n) ** 0.5
    assert np.abs(np.corrcoef(got.T)[np.triu_indices(4, 1)]).max() < 5 / n**0.5


def test_converter_noise_and_rounding_add_for_each_tile_and_phase() -> None:
    matrix = np.random.default_rng(7).uniform(0.2, 1, (1, 3, 6)).astype(np.float32)
    bar = made(PAIR, matrix, (0, 3, 6), adc_bits=12, sigma_lsb=4.0, device={"read_sigma_us": 3.0})
    n, delta = 40_000, np.array([1, -1, 0.5, 0.5, 0.25, -1], np.float32)
    got = gradient(bar, np.tile(delta, (n, 1))).astype(np.float64)
    range_ua = 7 * 3**0.5
    scale = max(1.0, 2.5 * 7 * 255 / 256 / range_ua)
    codes = np.rint(delta / scale * 255) / 256
    read, lsb = (0.1 * 3.0) ** 2 * (codes**2).sum(), range_ua / 4095
    sigma_ua = np.sqrt(2 * read + 2 * 2 * (4.0**2 + 1 / 12) * lsb**2)
    sigma = sigma_ua / 0.1 / 60 * np.abs(matrix).max() * scale * 256 / 255
    assert np.abs(got.std(axis=0) / sigma - 1).max() < 5 / (2 * n) ** 0.5
    exact = gradient(made(PAIR, matrix, (0, 3, 6), adc_bits=24), delta[None])[0]
    assert np.abs(got.mean(axis=0) - exact).max() < 5 * sigma / n**0.5
    assert bar.stats.transposed_saturations == 0


@pytest.mark.parametrize("name", ["conv2", "conv_grouped", "transposed", "gemm", "matmul"])
def test_the_same_bytes_for_any_threads_and_any_split_of_the_batch(name: str) -> None:
    node, x_shape, w_shape = PRODUCTS[name]
    rng = np.random.default_rng(8)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    program, step, session = compiled(node, x, w)
    dy = rng.standard_normal(session.run(None, {"x": x, "w": w})[0].shape).astype(np.float32)
    (layer,) = program.layers
    matrix = weight_matrix(program, layer)
    chip = target(PAIR, device={"read_sigma_us": 2.0}, array={"transposed": {}})
    cut = layer.model_copy(update={"column_cuts": (0, 1, layer.columns)})
    bar = Crossbar(cut, matrix, np.abs(matrix).max().reshape(1), chip)

    def read(first: int, end: int, key: int = 3) -> Array:
        return transposed.activation_gradient(dy[first:end], bar, (end - first, *x.shape[1:]), step.geometry, key, 40 + first)

    whole = read(0, len(x))
    for threads in (1, 2, 5):
        set_threads(threads)
        assert (read(0, len(x)) == whole).all()
    assert (np.concatenate([read(0, 1), read(1, len(x))]) == whole).all()
    assert (read(0, len(x), 4) != whole).any()
    twice = transposed.activation_gradient(dy, bar, x.shape, step.geometry, 3, 41)
    assert (twice != whole).any()


def test_rows_of_a_flattened_batch_are_numbered_on_from_batch_to_batch() -> None:
    """Two rows an image: image 5 begins with row 10, so that no later batch draws the noise of an earlier one."""
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    program, forward, _ = compiled("Gemm <transB = 1> (x, w)", x, w)
    common = {"layer": forward.layer, "geometry": forward.geometry, "nodes": ("dx",)}
    step = VmmBackwardStep(name="dx", input="dy", activation="x", output="dx", mode="analog", **common)
    (layer,) = program.layers
    chip = target(PAIR, device={"read_sigma_us": 2.0}, array={"transposed": {}})
    bars = {layer.name: Crossbar(layer, weight_matrix(program, layer), np.abs(w).max().reshape(1), chip)}
    dy, learning = np.ones((6, 3), np.float32), Learning({layer.name: bars[layer.name].matrix}, {})

    def run(rows: slice, images: int, first_image: int) -> Array:
        values: dict[str, Any] = {"x": x[rows], "dy": dy[rows]}
        learn(step, values, bars, 7, images, first_image, learning)
        gradient: Array = values["dx"]
        return gradient

    whole = run(slice(0, 6), 3, 5)
    assert (np.concatenate([run(slice(0, 2), 1, 5), run(slice(2, 6), 2, 6)]) == whole).all()
    assert len({row.tobytes() for row in whole}) == 6
    later = {row.tobytes() for row in run(slice(0, 6), 3, 8)}
    assert not later & {row.tobytes() for row in whole}


# What is held ---------------------------------------------------------------------------------------------------------


def test_one_plan_serves_until_conductances_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    matrix, dy = rng.standard_normal((1, 6, 5)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    bar, other = made(PAIR, matrix), made(PAIR, -matrix)
    plans, make = [], bar.backend.prepare
    monkeypatch.setattr(bar.backend, "prepare", lambda *arguments: plans.append(1) or make(*arguments))
    first = gradient(bar, dy)
    assert (gradient(bar, dy) == first).all()
    assert len(plans) == 1
    saved, negative = bar.g_us.copy(), gradient(other, dy)
    assert (negative != first).any()
    bar.g_us[...] = other.g_us
    bar.written()
    assert (gradient(bar, dy) == negative).all()
    bar.set_conductances(saved)
    assert (gradient(bar, dy) == first).all()


@pytest.mark.parametrize("name", ["gemm", "conv2", "transposed"])
def test_copies_share_out_positions(name: str) -> None:
    """Position p is read on copy ``p mod 3``; of a product with one position an image, image i on ``i mod 3``."""
    node, x_shape, w_shape = PRODUCTS[name]
    rng = np.random.default_rng(11)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    program, step, _ = compiled(node, x, w)
    (layer,) = program.layers
    matrix = weight_matrix(program, layer)
    chip = target(PAIR, device={"programming": {"sigma_us": 4.0}}, array={"transposed": {}})
    bars = [Crossbar(layer, matrix, np.abs(matrix).max().reshape(1), chip, seed) for seed in range(3)]
    bar = Crossbar(layer, matrix, bars[0].weight_max, chip)
    bar.hold([one.held[0] for one in bars])
    delta = rng.standard_normal((5, bar.groups, bar.columns, step.geometry.positions(x_shape))).astype(np.float32)
    found, *alone = (transposed.multiply(delta, one, transposed_target(chip), 1, 7) for one in (bar, *bars))
    assert (alone[0] != alone[1]).any()
    for image in range(5):
        for position in range(delta.shape[3]):
            copy = (position if delta.shape[3] > 1 else image + 7) % 3
            assert (found[image, :, position] == alone[copy][image, :, position]).all()


def test_a_chip_without_one_is_refused() -> None:
    bar = crossbar(target(PAIR), np.ones((1, 2, 2), np.float32), range_ua=1.0)
    with pytest.raises(TargetError, match="no transposed read") as caught:
        gradient(bar, np.ones((1, 2), np.float32))
    assert "--set array.transposed={}" in (caught.value.fix or "")
