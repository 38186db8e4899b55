"""Reads of a layer through wires: where its blocks lie, forward and transposed, after writes, with copies and unit columns."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import cimc
from cimc.errors import ArtifactError, FitError
from cimc.ir.cells import cells
from cimc.runtime import transposed
from cimc.runtime.cells import Cells, Sites
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.wires.effective import effective_us
from cimc.runtime.wires.estimate import estimate
from cimc.targets.load import load_target
from tests.runtime.crossbars import PAIR, crossbar, dense, target
from tests.runtime.nodal import transfer_us

Array = NDArray[Any]

#: Of a device of 10 µS, 5 %.
WIRES = {"row_segment_ohm": 300.0, "column_segment_ohm": 400.0, "driver_ohm": 900.0, "sense_ohm": 700.0, "solver": "exact"}
DEVICE = {"g_min_us": 0.5, "g_max_us": 10.0, "programming": {"sigma_us": 0.3}}


def model(rows: int, columns: int) -> onnx.ModelProto:
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[n, r] x) => (float[n, c] y) { y = MatMul (x, w) }'
    proto = onnx.parser.parse_model(text.replace("[n, r]", f"[n, {rows}]").replace("[n, c]", f"[n, {columns}]"))
    weights = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return proto


def converterless(**array: Any) -> cimc.Target:
    return load_target("ideal", {"array": {"rows": 9, "columns": 12, **array}, "device": DEVICE})


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_each_block_is_solved_where_it_lies(solver: str) -> None:
    """Against nodal analysis of every array, with the cells that the placement table lists."""
    chip_target = converterless(wires={**WIRES, "solver": solver})
    program = cimc.compile(model(21, 14), chip_target)
    chip = cimc.Chip(program, seed=3)
    (layer,) = program.layers
    bar = chip.crossbars[layer.name]
    records = cells(program, layer.name)
    weights = np.zeros((21, 14))
    step = 9.5 / bar.coefficients.weight_step[0]
    for place in np.unique(records[["chip", "tile"]]):
        own = records[records[["chip", "tile"]] == place]
        # Blocks share no line with another block here, so what an array holds can be solved block by block.
        for words in {tuple(np.unique(own["row"][own["column"] == bit])) for bit in own["column"]}:
            block = own[np.isin(own["row"], words)]
            bits = np.unique(block["column"])
            whole = np.full((9, 12), 0.5)
            whole[block["row"], block["column"]] = bar.g_us[
                0, block["index"][:, 0], (block["sign"] < 0).astype(int), block["index"][:, 1]
            ]
            found = np.zeros((9, 12))
            found[np.ix_(words, bits)] = transfer_us(whole, chip_target.array.wires, np.array(words), bits)
            np.add.at(weights, tuple(block["index"].T), block["sign"] * found[block["row"], block["column"]] / step)
    tolerance = 1e-5 if solver == "exact" else 5e-3
    np.testing.assert_allclose(chip.weights()[layer.name][0], weights, atol=tolerance)
    x = np.random.default_rng(1).random((5, 21), np.float32)
    np.testing.assert_allclose(chip.run({"x": x})["y"], x @ weights, atol=20 * tolerance)
    assert np.abs(weights).sum() < 0.95 * np.abs(program.tensors["initializer/w"]).sum()


def wired(base: dict[str, Any], matrix: Array, row_cuts: tuple[int, ...], column_cuts: tuple[int, ...], **wires: Any) -> Crossbar:
    chip = target(base, array={"transposed": {}, "wires": {**WIRES, **wires}}, device={"programming": {"sigma_us": 2.0}})
    return crossbar(chip, matrix, row_cuts, column_cuts, range_ua=20.0, gain=200.0 if "dac" in base else 1.0)


REAL: dict[str, Any] = {"device": PAIR["device"]}
OFFSET: dict[str, Any] = {**REAL, "array": {"unit_column": True}, "weights": {"representation": "offset", "bits": 4}}
CUTS = (0, 5, 11), (0, 4, 7)


def matrix() -> Array:
    return np.random.default_rng(2).standard_normal((2, 11, 7)).astype(np.float32)


@pytest.mark.parametrize("base", [REAL, OFFSET])
def test_without_rounding_a_product_is_that_of_the_weights_seen(base: dict[str, Any]) -> None:
    bar, x = wired(base, matrix(), *CUTS), np.random.default_rng(3).standard_normal((4, 22)).astype(np.float32)
    expected = np.einsum("ngr,grc->ngc", x.reshape(4, 2, 11), bar.weights()).reshape(4, -1)
    np.testing.assert_allclose(bar.multiply(x, dense(bar.matrix), 1), expected, atol=1e-4)
    held = bar.held[0].weights(bar.row_cuts, bar.column_cuts, bar.target)
    assert np.abs(bar.weights() - held).max() > 0.05 * np.abs(held).max()


@pytest.mark.parametrize("rows", [11, 200])
def test_without_noise_conductances_are_rounded_to_a_fine_grid(rows: int) -> None:
    """Currents of int16 grid steps, against those of the conductances seen, in units of g_max at full drive."""
    chip = target(PAIR, array={"wires": WIRES}, adc={"bits": None})
    big = np.random.default_rng(7).standard_normal((1, rows, 6)).astype(np.float32)
    bar = crossbar(chip, big, gain=255.0)
    x = np.random.default_rng(8).integers(0, 256, (4, rows)).astype(np.float32) / np.float32(255)
    error = bar.multiply(x, dense(big), 1) - x @ bar.weights()[0]
    unit = bar.coefficients.weight_step[0] * 15 * 70 / 60  # weight of a device at g_max
    assert 0 < np.abs(error).max() < 2 * rows * 8e-6 * unit  # two devices a weight


def test_the_unit_column_is_the_bit_line_behind_the_others() -> None:
    bar = wired(OFFSET, matrix()[:1], (0, 11), (0, 7))
    array = np.concatenate([bar.g_us[0, :, 0], bar.unit_g_us[0]], axis=1).astype(float)
    solved = transfer_us(array, bar.target.array.wires)
    np.testing.assert_allclose(bar.effective[0].g_us[0, :, 0], solved[:, :7], rtol=1e-5)
    np.testing.assert_allclose(bar.effective[0].unit_g_us[0], solved[:, 7:], rtol=1e-5)


def test_a_transposed_read_is_the_adjoint() -> None:
    bar = wired(REAL, matrix(), *CUTS)
    x, dy = (np.random.default_rng(4).standard_normal((3, n)).astype(np.float32) for n in (22, 14))
    dx = transposed.activation_gradient(dy, bar, x.shape, dense(bar.matrix), 1)
    assert (dx * x).sum() == pytest.approx((dy * bar.multiply(x, dense(bar.matrix), 1)).sum(), rel=1e-4)


@pytest.mark.parametrize("solver", ["exact", "fast"])
@pytest.mark.parametrize("base", [REAL, OFFSET, PAIR])
def test_after_some_writes_a_read_is_that_of_a_new_chip(base: dict[str, Any], solver: str) -> None:
    """Blocks without a write are not solved anew; bytes are the same."""
    bar, again = (wired(base, matrix(), *CUTS, solver=solver) for _ in range(2))
    x, dy = (np.random.default_rng(5).random((3, n)).astype(np.float32) for n in (22, 14))

    def read(one: Crossbar) -> tuple[Array, Array]:
        return one.multiply(x, dense(one.matrix), 1), transposed.activation_gradient(dy, one, x.shape, dense(one.matrix), 1)

    before = read(bar)
    for written in (np.array([3, 40]), np.array([100])):
        bar.g_us.reshape(-1)[written] *= np.float32(1.5)
        bar.written(written)
        again.g_us.reshape(-1)[written] *= np.float32(1.5)
    after = read(bar)
    for one, new, old in zip(after, read(again), before, strict=True):
        np.testing.assert_array_equal(one, new)
        assert (one != old).any()


def test_copies_see_their_own_wires() -> None:
    """A copy further from the drivers loses more."""
    bar = wired(PAIR, matrix()[:1], (0, 11), (0, 7))
    layer, chip = bar.layer, bar.target
    table = np.array([[0, 0, 0, 0, 0, row, column, 11, 14] for row, column in ((0, 0), (20, 30))], np.int32)
    places = tuple(Cells(layer, chip, 0, copy, Sites(table)) for copy in range(2))
    two = Crossbar(layer, bar.matrix, bar.weight_max, chip, copies=2, cells=places)
    # No limit to the array: it ends with the copy. Sensed at the bottom, driven from the left: the way from the left grows.
    first, second = (one.g_us.mean() / held.g_us.mean() for one, held in zip(two.effective, two.held, strict=True))
    assert second < 0.97 * first


def test_places_of_no_array_are_refused() -> None:
    bar = wired(PAIR, matrix()[:1], (0, 11), (0, 7))
    for lines in (np.zeros(25, np.int32), np.arange(25, dtype=np.int32) * 10**8 // 2):
        table = np.zeros((1, 9), np.int32)
        bar.cells = (Cells(bar.layer, bar.target, 0, 0, Sites(table, lines)),)
        bar.release()
        with pytest.raises(ArtifactError, match="no array"):
            bar.weights()


def test_a_block_too_large_to_be_solved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cimc.runtime.wires.layer._MOST_CELLS", 100)
    with pytest.raises(FitError, match="11 x 14 cells is too large"):
        wired(PAIR, matrix()[:1], (0, 11), (0, 7)).weights()


def test_a_rough_approximation_is_told_once_it_is_used() -> None:
    bar = wired(REAL, matrix(), *CUTS, solver="fast", row_segment_ohm=3e3, column_segment_ohm=3e3)
    with pytest.warns(UserWarning, match="fast solver's currents are off by about [0-9.]+ %.*solver=exact"):
        bar.weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wired(REAL, matrix(), *CUTS, solver="fast", row_segment_ohm=3.0, column_segment_ohm=3.0).weights()


def test_the_estimate_is_near_to_the_array_itself() -> None:
    """Bundled to 64 lines; of the array by the exact solver."""
    wires = {"row_segment_ohm": 0.5, "column_segment_ohm": 2.0, "driver_ohm": 20.0}
    chip = target(REAL, array={"wires": wires})
    found = estimate(chip, 128, 96)
    g = np.random.default_rng(6).uniform(10, 70, (128, 96)).astype(np.float32)
    solved = effective_us(g, chip.array.wires.model_copy(update={"solver": "exact"}))
    assert found.mean_drop == pytest.approx(1 - solved.sum() / g.sum(), abs=0.01)
    assert found.largest_drop == pytest.approx(1 - (solved.sum(axis=0) / g.sum(axis=0)).min(), abs=0.03)
