"""Segments step around what is dead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.errors import DataError, FitError
from cimc.image.faults import FaultMap
from cimc.image.layout import USES
from cimc.runtime.cells import stuck_us
from tests.image.models import exact, inputs, network


@given(st.integers(0, 10**6), st.floats(0, 0.02), st.integers(0, 2), st.integers(0, 2), st.booleans())
@settings(max_examples=20, deadline=None)
def test_nothing_dead_is_used_and_nothing_twice(seed: int, share: float, rows: int, columns: int, offset: bool) -> None:
    changes: dict[str, Any] = {"weights__representation": "offset", "array__unit_column": True} if offset else {}
    # Blocks of at most 10 x 12 leave room in arrays of 16 x 16.
    program = cimc.compile(network(10), exact(array__tiles_per_chip=40, **changes))
    random = np.random.default_rng(seed)
    cells = np.argwhere(random.random((40, 16, 16 + offset)) < share)
    faults = FaultMap.of(
        rows=[[0, t, r] for t in range(40) for r in random.integers(0, 16, rows)],
        columns=[[0, t, c] for t in range(40) for c in random.integers(0, 16, columns)],
        cells=np.insert(cells, 0, 0, axis=1),
    )
    image = cimc.export_image(program, fault_map=faults)
    taken: set[tuple[int, ...]] = set()
    for number in range(len(image.layers)):
        tiles = []
        for record, word, bit in image.segments(number):
            at = int(record["chip"]), int(record["tile"])
            tiles.append(at)
            dead = faults.dead(*at, 16, 16 + offset)
            assert not dead[np.ix_(word, bit)].any()
            assert not offset or not dead[word, 16].any()
            places = {(*at, int(r), int(c)) for r in word for c in bit}
            assert not places & taken
            taken |= places
        assert len(set(tiles)) == len(tiles)  # segments of a layer fire together
    masks = {name: image.sections["CELL"]["use"] == USES.index(name) for name in USES}
    assert masks["use"].sum() == len(taken)
    on = {(int(t["chip"]), int(t["tile"])) for t in image.sections["TILE"]}
    assert masks["faulty"].sum() == sum(int(faults.dead(*at, 16, 16 + offset).sum()) for at in on)
    found = image.program(seed=1, error_free=True, fault_map=faults).run(inputs(10), 0)["y"]
    np.testing.assert_array_equal(found, cimc.Chip(program).run(inputs(10), 0)["y"])


def test_a_dead_row_and_column_are_left_out() -> None:
    program = cimc.compile(network(10), exact())
    faults = FaultMap.of(rows=[[0, 0, 3]], columns=[[0, 0, 0], [0, 0, 5]])
    image = cimc.export_image(program, fault_map=faults)
    _, rows, columns = image.segments(0)[0]
    assert rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert columns.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]


def test_a_die_without_room_is_refused_with_levers() -> None:
    program = cimc.compile(network(), exact(array__tiles_per_chip=4))
    faults = FaultMap.of(rows=[[0, t, r] for t in range(4) for r in range(14)])
    with pytest.raises(FitError, match="16 word lines by 12 bit lines finds no room in 4 tiles") as caught:
        cimc.export_image(program, fault_map=faults)
    assert "--chips 2" in str(caught.value)


def test_segments_are_cut_smaller_where_whole_ones_find_no_room() -> None:
    target = exact(array__tiles_per_chip=4)
    program = cimc.compile(network(), target, calibration=inputs())
    faults = FaultMap.of(rows=[[0, t, r] for t in range(4) for r in range(0, 16, 2)])
    image = cimc.export_image(program, fault_map=faults, calibration=inputs())
    assert image.sections["SEGM"]["height"].max() <= 8
    die = image.program(target=target, fault_map=faults, error_free=True)  # the platform is that of the whole array
    expected = cimc.Chip(program).run(inputs(), 0)["y"]
    assert np.corrcoef(die.run(inputs(), 0)["y"].ravel(), expected.ravel())[0, 1] > 0.98
    assert any("input scales kept" in note for note in cimc.export_image(program, fault_map=faults).meta["notes"])


def test_a_file_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", rows=np.array([[0, 1, 2]]), cells=np.array([[0, 0, 5, 5], [0, 0, 4, 4]]), die=np.array("w1-d3"))
    faults = FaultMap.load(tmp_path / "f.npz")
    assert faults.die == "w1-d3"
    assert faults.dead(0, 1, 8, 8)[2].all()
    assert faults.dead(0, 0, 8, 8).sum() == 2
    same = FaultMap.of(rows=[[0, 1, 2], [0, 1, 2]], cells=[[0, 0, 4, 4], [0, 0, 5, 5]], die="w1-d3")
    assert same.sha256 == faults.sha256
    assert FaultMap.of(rows=[[0, 1, 3]], die="w1-d3").sha256 != faults.sha256
    image = cimc.export_image(cimc.compile(network(), exact()), fault_map=tmp_path / "f.npz")
    assert image.die == "w1-d3"
    assert image.fault_map_sha256 == faults.sha256.hex()


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"rows": np.zeros((2, 4), int)}, r"rows is int64 \[2, 4\]"),
        ({"cells": np.zeros((2, 4))}, "cells is float64"),
        ({"columns": np.array([[0, -1, 2]])}, "columns holds -1"),
        ({"bad": np.zeros(3)}, "no part of a fault map: bad"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, arrays: dict[str, Any], what: str) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(DataError, match=what):
        FaultMap.load(tmp_path / "f.npz")


#: Faults, and nothing else that keeps a device from its goal.
FAULTY = {"device__stuck_low_rate": 0.01, "device__stuck_high_rate": 0.01}


def off_goal(image: Any, die: Any) -> list[int]:
    """Devices of each layer, all copies, that do not hold their goal."""
    return [
        sum(int((held.g_us != image.goals(n, copy).g_us).sum()) for copy, held in enumerate(die.crossbars[layer.name].held))
        for n, layer in enumerate(image.layers)
    ]


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("seed", [3, 4])
def test_a_mapped_die_holds_every_weight(seed: int, offset: bool, tmp_path: Path) -> None:
    """Map a die's faults, export around them, write that die: nothing is lost. Without the map some weights are."""
    changes: dict[str, Any] = {"weights__representation": "offset", "array__unit_column": True} if offset else {}
    program = cimc.compile(network(10), exact(array__tiles_per_chip=40, **FAULTY, **changes), copies={"first": 2})
    faults = cimc.fault_map(program, seed)
    assert len(faults.cells) == pytest.approx(0.02 * 40 * 16 * (16 + offset), rel=0.3)
    faults.save(tmp_path / "f.npz")
    image = cimc.export_image(program, fault_map=tmp_path / "f.npz")
    die = image.program(seed, fault_map=faults, programming="gaussian")
    assert off_goal(image, die) == [0] * len(image.layers)
    for layer in image.layers:
        for cells in die.crossbars[layer.name].cells:
            for keys in (cells.keys(), cells.unit_keys()):
                assert np.isnan(stuck_us(program.target.device, keys)).all()
    blind = cimc.export_image(program)
    assert sum(off_goal(blind, blind.program(seed, programming="gaussian"))) > 0
    # The map is of one die; another has its faults elsewhere.
    assert sum(off_goal(image, image.program(seed + 10, fault_map=faults, programming="gaussian"))) > 0
    die.save(tmp_path / "die.cim")
    again = cimc.Chip(cimc.load(tmp_path / "die.cim"))
    for name, crossbar in die.crossbars.items():
        for one, two in zip(crossbar.cells, again.crossbars[name].cells, strict=True):
            np.testing.assert_array_equal(one.keys(), two.keys())


def test_whatever_is_written_meets_the_same_dead_cells() -> None:
    """A chip of a program, the same program as an image, and another model, all on the die of one seed."""
    target = exact(array__tiles_per_chip=40, **FAULTY | {"device__stuck_low_rate": 0.1})
    faults = cimc.fault_map(target, 6)
    dead = {tuple(cell) for cell in faults.cells.tolist()}
    for model in (network(10), network(14, 5, 3, seed=8)):
        program = cimc.compile(model, target)
        met, chip = 0, cimc.Chip(program, seed=6)
        die = cimc.export_image(program).program(6, programming="gaussian")
        for layer in program.layers:
            np.testing.assert_array_equal(chip.conductances(layer.name), die.conductances(layer.name))
            goals = cimc.Chip(cimc.compile(model, exact(array__tiles_per_chip=40))).conductances(layer.name)
            off, table = chip.conductances(layer.name) != goals, program.cells(layer.name)
            for record in table:
                r, c = record["index"]
                at = tuple(int(record[name]) for name in ("chip", "tile", "row", "column"))
                if off[0, r, 0 if record["sign"] > 0 else 1, c]:
                    assert at in dead
            met += int(off.sum())
        assert met > 0


def test_a_map_covers_what_is_asked_for() -> None:
    target = exact(**FAULTY)
    assert cimc.fault_map(target, 1, tiles=3).cells[:, 1].max() < 3
    assert set(cimc.fault_map(target, 1, chips=2, tiles=3).cells[:, 0]) == {0, 1}
    program = cimc.compile(network(), target)
    chip = cimc.Chip(program, 5)
    assert cimc.fault_map(chip).sha256 == cimc.fault_map(program, 5).sha256
    assert cimc.fault_map(cimc.export_image(program), 5).sha256 == cimc.fault_map(program, 5).sha256
    assert cimc.fault_map("bulk-rram", 1).cells.shape == (0, 4)
    with pytest.raises(FitError, match="known size"):
        cimc.fault_map(exact(array__rows=None, **FAULTY))
    with pytest.raises(cimc.CimcError, match="whole number"):
        cimc.fault_map(target, -1)
