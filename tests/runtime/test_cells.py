"""What a cell brings from its birth belongs to its place on the die."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError
from cimc.runtime.cells import Cells, Sites, born_on, cells_of, grid_keys, numbered_keys, responses, stick, stuck_us, unit_line
from cimc.targets.description import Device
from tests.image.models import exact, network

N = 400_000


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.0), (0.0, 0.02), (0.1, 0.2), (0.5, 0.5)])
def test_stuck_cells_hold_an_end_of_the_window_at_the_stated_rate(low: float, high: float) -> None:
    g_us = np.full(N, 5, np.float32)
    stick(Device(g_min_us=2, g_max_us=9, stuck_low_rate=low, stuck_high_rate=high), g_us, numbered_keys(3, N))
    for value, rate in ((2, low), (9, high)):
        assert abs((g_us == value).mean() - rate) <= 5 * (rate * (1 - rate) / N) ** 0.5
    assert set(np.unique(g_us)) <= {2, 5, 9}


def test_draws_of_a_cell_are_independent_of_each_other_and_of_its_neighbours() -> None:
    device = Device(g_min_us=0, g_max_us=9, born_us=(0, 1), stuck_low_rate=0.0)
    keys = grid_keys(5, 0, 0, 600, 600)
    born, answer = born_on(device, keys).astype(np.float64), responses(keys).reshape(keys.shape).astype(np.float64)
    stuck = ~np.isnan(stuck_us(Device(stuck_low_rate=0.5), keys))
    other = born_on(device, grid_keys(5, 0, 1, 600, 600))
    bound = 5 / np.sqrt(keys.size)
    pairs = [(born, answer), (born, stuck), (answer, stuck), (born, other)]
    pairs += [(x[:, 1:], x[:, :-1]) for x in (born, answer, stuck)] + [(x[1:], x[:-1]) for x in (born, answer, stuck)]
    for one, two in pairs:
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < bound * 1.01
    assert abs(answer.mean()) < bound
    assert abs(answer.std() - 1) < bound


@pytest.mark.parametrize("offset", [False, True])
def test_a_layers_cells_are_those_of_its_weights(offset: bool) -> None:
    """By the program's own table of which weight is which cell."""
    changes = {"weights__representation": "offset", "array__unit_column": True} if offset else {}
    program = cimc.compile(network(), exact(**changes), copies={"first": 2})
    target = program.target
    for layer in program.layers:
        table = program.cells(layer.name)
        for copy, cells in enumerate(cells_of(program, layer, 9)):
            own, keys, units = table[table["copy"] == copy], cells.keys(), cells.unit_keys()
            assert keys.shape == (1, layer.rows, target.planes, layer.columns)
            where = {(int(r["chip"]), int(r["tile"])) for r in own}
            grids = {at: grid_keys(9, *at, target.array.rows, target.array.columns + offset) for at in where}
            rows, columns = layer.weight.shape[1:]
            for record in own:
                r, c = record["index"]
                plane = 0 if record["sign"] > 0 else 1
                at = int(record["chip"]), int(record["tile"])
                assert keys[0, r, plane, c] == grids[at][record["row"], record["column"]]
                if offset:
                    column_tile = np.searchsorted(layer.column_cuts, c, side="right") - 1
                    assert units[0, r, column_tile] == grids[at][record["row"], unit_line(target)]
            assert len(own) == rows * columns * target.planes
            assert len(np.unique(keys)) == keys.size
            for group, (begin, end) in product(range(1), ((0, 1), (1, 2))):
                if end < len(layer.row_cuts):
                    part = cells.keys(group, begin, end)
                    np.testing.assert_array_equal(part[0], keys[group, layer.row_cuts[begin] : layer.row_cuts[end]])


def test_a_layer_without_a_place_has_cells_by_its_name() -> None:
    program = cimc.compile(network(), exact())
    one, two = (
        Cells(layer.model_copy(update={"row_cuts": (), "column_cuts": ()}), program.target, 3) for layer in program.layers
    )
    assert not np.isin(one.keys(), two.keys()).any()
    assert not np.isin(one.keys(), Cells(one.layer, program.target, 4).keys()).any()
    assert len(np.unique(one.keys())) == one.keys().size


def test_sites_that_do_not_suit_are_refused() -> None:
    program = cimc.compile(network(), exact())
    layer = program.layers[0]
    table = program.tensors[f"blocks/{layer.name}"]
    for column, value in ((0, 1), (1, 9), (2, 9), (3, -1), (5, -2)):
        bad = table.copy()
        bad[0, column] = value
        with pytest.raises(ArtifactError, match="do not suit the layer"):
            Sites(bad).checked(layer, program.target)
    for bad_table, lines in ((table[1:], None), (table[:, 1:], None), (table, np.zeros(5, np.int32))):
        with pytest.raises(ArtifactError, match="do not suit the layer"):
            Sites(bad_table, lines).checked(layer, program.target)
