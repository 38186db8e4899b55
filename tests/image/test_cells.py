"""Every weight is in its cell: goals, windows, masks, converters and the way back, for many shapes and encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.image.image import Image
from cimc.image.layout import NO_HIGH, NO_LOW, USES
from cimc.image.reader import read_image
from cimc.ir.encoding import encode, level_step_us
from cimc.ir.program import Program, weight_matrix
from tests.image.models import exact, inputs, network

OFFSET = {"weights__representation": "offset", "array__unit_column": True}
CHANGES: list[dict[str, Any]] = [
    {},
    {"weights__rounded": False},
    {"device__levels": None, "weights__rounded": False, "device__write_verify__tolerance_us": None},
    {"device__levels": 4, "weights__bits": 6, "weights__cells": 3},
    {
        "weights__representation": "offset",
        "array__unit_column": True,
        "device__levels": 4,
        "weights__bits": 4,
        "weights__cells": 2,
    },
    {"weights__scale": "column", "dac__bits": 4},
]


def cells_match(image: Image, program: Program) -> None:
    """Cell by cell, by the compiler's own table of which weight is where."""
    grids = {(int(t["chip"]), int(t["tile"])): (t, image.grid(k)) for k, t in enumerate(image.sections["TILE"])}
    used = 0
    for layer in program.layers:
        encoded = encode(
            weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], layer.row_cuts, program.target
        )
        table = program.cells(layer.name)
        matrix = np.full(program.tensors[f"initializer/{layer.weight.tensor}"].size, -1)
        position = np.arange(layer.rows * layer.columns)
        order = weight_matrix(program, layer).shape
        flat = np.arange(matrix.size).reshape(program.tensors[f"initializer/{layer.weight.tensor}"].shape)
        view = layer.weight
        matrix[flat[view.index].reshape(view.split).transpose(view.perm).reshape(-1)] = position
        r, c = np.unravel_index(matrix[table["weight"]], order[1:])
        plane = table["slice"] + np.where(table["sign"] < 0, program.target.weights.cells, 0)
        goals = encoded.g_us[0, r, plane, c]
        for cell, goal in zip(table[::7], goals[::7], strict=True):
            tile, grid = grids[int(cell["chip"]), int(cell["tile"])]
            found = grid[cell["row"], cell["column"]]
            siemens = tile["base_s"] + int(found["code"]) * tile["step_s"]
            assert siemens == pytest.approx(float(goal) * 1e-6, abs=0.51 * float(tile["step_s"]) + 1e-12)
            assert USES[found["use"]] == "use"
            assert found["low"] < found["code"] < found["high"]
        used += len(table)
    assert (image.sections["CELL"]["use"] == USES.index("use")).sum() == used


@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.sampled_from(CHANGES), st.integers(5, 40), st.integers(0, 99)
)
@settings(max_examples=15, deadline=None)
def test_cells_hold_what_the_weights_ask_for(rows: int, hidden: int, columns: int, changes: Any, height: int, seed: int) -> None:
    target = exact(array__rows=height, **changes)
    program = cimc.compile(network(rows, hidden, columns, seed), target)
    image = read_image(cimc.export_image(program).data)
    cells_match(image, program)
    for name in ("w1", "w2"):
        layer = next(layer for layer in program.layers if layer.weight.tensor == name)
        step = float(program.tensors[f"weight_max/{layer.name}"].max()) / {4: 1, None: 1}.get(target.device.levels, 1)
        back, weights = image.compiled.tensors[f"initializer/{name}"], program.tensors[f"initializer/{name}"]
        assert back.shape == weights.shape
        assert np.abs(back - weights).max() <= step / 2 + 1e-6  # the coarsest encoding here has steps of a third
    again = cimc.export_image(image.program(error_free=True))
    assert again.sections["CELL"].tobytes() == image.sections["CELL"].tobytes()


def test_goals_at_whole_levels_are_whole_codes() -> None:
    image = cimc.export_image(cimc.compile(network(), exact()))
    tile = image.sections["TILE"][0]
    assert tile["codes_per_level"] == 4096
    codes = image.sections["CELL"]["code"]
    assert (codes % 4096 == 0).all()
    assert codes.max() == 15 * 4096
    assert tile["step_s"] * 4096 == pytest.approx(level_step_us(exact()) * 1e-6)
    assert tile["base_s"] == pytest.approx(8.2e-6)


def test_windows_are_one_sided_where_the_device_is_least_conductive() -> None:
    image = cimc.export_image(cimc.compile(network(), exact(device__write_verify__tolerance_us=1.0)))
    cells = image.sections["CELL"][image.sections["CELL"]["use"] == USES.index("use")]
    lowest = cells["code"] == 0
    reach = round(1.0 / (level_step_us(exact()) / 4096))
    assert lowest.any()
    assert (cells["low"][lowest] == NO_LOW).all()
    assert (cells["low"][~lowest] == cells["code"][~lowest] - reach).all()
    assert (cells["high"] == cells["code"] + reach).all()


def test_no_window_is_made_up_where_no_tolerance_is_known() -> None:
    target = exact(device__levels=None, weights__rounded=False, device__write_verify__tolerance_us=None)
    cells = cimc.export_image(cimc.compile(network(), target)).sections["CELL"]
    assert (cells["low"] == NO_LOW).all()
    assert (cells["high"] == NO_HIGH).all()


def test_unit_columns_are_reference_cells() -> None:
    target = exact(weights__representation="offset", array__unit_column=True)
    image = cimc.export_image(cimc.compile(network(), target))
    reference = image.sections["CELL"][image.sections["CELL"]["use"] == USES.index("reference")]
    assert (reference["code"] == 4096).all()
    lines = {(int(s["tile"]), int(r)) for k in range(2) for s, rows, _ in image.segments(k) for r in rows}
    assert len(reference) == len(lines)  # segments on the same word lines share them
    assert (image.sections["TILE"]["columns"] == 17).all()


def test_packed_groups_park_the_cells_between_them() -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    w = np.random.default_rng(0).normal(size=(6, 2, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=3)],
        "grouped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 3, 3])],
        [numpy_helper.from_array(w, "w")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    program = cimc.compile(model, exact())
    image = cimc.export_image(program)
    uses = image.sections["CELL"]["use"]
    weights = sum(len(program.cells(layer.name)) for layer in program.layers)
    assert (uses == USES.index("use")).sum() == weights == 24
    layer = program.layers[0]
    assert (uses == USES.index("park")).sum() == layer.groups * layer.rows * layer.columns * 2 - weights
    x = {"x": np.random.default_rng(1).random((2, 6, 3, 3), np.float32)}
    np.testing.assert_array_equal(image.program(error_free=True).run(x)["y"], cimc.Chip(program).run(x)["y"])


def test_an_error_free_die_computes_what_the_program_computes() -> None:
    for changes in CHANGES[:1] + CHANGES[3:]:
        program = cimc.compile(network(), exact(**changes))
        expected = cimc.Chip(program).run(inputs(), 0)["y"]
        found = cimc.export_image(program).program(seed=4, error_free=True).run(inputs(), 0)["y"]
        np.testing.assert_array_equal(found, expected)
