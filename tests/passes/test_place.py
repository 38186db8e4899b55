"""`place`: which tiles blocks share, and which they must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CimcError, FitError, VerifyError
from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, ROW, TILE, WIDTH
from cimc.ir.program import Program
from cimc.passes.map import Map
from cimc.passes.place import Place
from cimc.passes.tile import Tile
from cimc.targets.description import Target
from cimc.targets.load import load_target
from tests.ir.crossbar_programs import BULK, DENSE, LENET, VGG8, Matrix, chain, copy_counts, matrices, targets, through
from tests.passes.program_text import layer_text, new_lines, program

PLACED = (Tile, Map, Place)


def _tiles(program: Program) -> set[tuple[int, int]]:
    return {(int(b[CHIP]), int(b[TILE])) for layer in program.layers for b in program.tensors[f"blocks/{layer.name}"]}


def test_lenet_fits_three_of_a_chips_four_tiles() -> None:
    assert _tiles(through(chain(DENSE, LENET), PLACED)) == {(0, 0), (0, 1), (0, 2)}


def test_text() -> None:
    """The tallest layer comes first. Blocks of one layer are on tiles of their own; the other stands beside."""
    low = layer_text("low", 25, 4, "x", "h", "row_cuts=[0, 25] column_cuts=[0, 4]", "block 0.0.0: 25 x 8")
    blocks = "block 0.0.0: 50 x 24 block 0.1.0: 50 x 24"
    tall = layer_text("tall", 100, 12, "h", "y", "row_cuts=[0, 50, 100] column_cuts=[0, 12]", blocks)
    dense = program(low, tall).replace("target t {", 'target t {mapping={"packing": "dense"} ')
    assert new_lines(dense, Place()) == [
        "block 0.0.0: 25 x 8 at 0.0[0, 24]",
        "block 0.0.0: 50 x 24 at 0.0[0, 0]",
        "block 0.1.0: 50 x 24 at 0.1[0, 0]",
    ]


def test_layers_stand_above_each_other_too() -> None:
    """Four matrices of 32 x 64 cells fill two tiles of 64 x 64."""
    assert len(_tiles(through(chain(DENSE, [Matrix(f"l{k}", 32, 32) for k in range(4)]), PLACED))) == 2


def test_blocks_of_one_layer_are_on_different_tiles() -> None:
    """Thin slices would fit one tile, but they fire together."""
    program = through(chain(BULK, [Matrix("a", 64 * 4, 2, groups=3)]), PLACED)
    assert len(_tiles(program)) == 12


def test_two_copies_of_25_by_8_share_a_tile_along_the_diagonal() -> None:
    table = through(chain(BULK, LENET[:1]), PLACED, copies={"conv1": 8}).tensors["blocks/conv1"]
    assert Counter(table[:, TILE].tolist()) == {0: 2, 1: 2, 2: 2, 3: 2}
    first, second = table[table[:, TILE] == 0]
    assert second[ROW] >= first[ROW] + 25 or first[ROW] >= second[ROW] + 25
    assert second[COLUMN] >= first[COLUMN] + 8 or first[COLUMN] >= second[COLUMN] + 8


def test_copies_share_no_tile_that_has_a_unit_column() -> None:
    """The unit column would sum the inputs of both."""
    data = BULK.model_dump()
    data["array"] |= {"unit_column": True}
    program = through(chain(Target.model_validate(data), LENET[:1]), PLACED, copies={"conv1": 3})
    assert len(_tiles(program)) == 3


def test_as_many_chips_as_it_takes() -> None:
    program = through(chain(BULK, [Matrix("a", 64 * 9, 32)]), PLACED)
    assert program.tensors["blocks/a"][:, [CHIP, TILE]].tolist() == [[k // 4, k % 4] for k in range(9)]


def test_too_few_chips_are_refused_with_levers_that_help() -> None:
    program = chain(BULK, [Matrix("a", 64 * 9, 32)])
    with pytest.raises(FitError) as error:
        through(program, PLACED, chips=2)
    text = str(error.value)
    assert "9 tiles > 8 tiles of 2 chips with 4 each, 1 tiles too many" in text
    assert "--chips 3" in text
    assert "--set array.tiles_per_chip=5" in text
    through(program, PLACED, chips=3)
    data = BULK.model_dump()
    data["array"] |= {"tiles_per_chip": 5}
    through(chain(Target.model_validate(data), [Matrix("a", 64 * 9, 32)]), PLACED, chips=2)


@pytest.mark.parametrize(
    ("copies", "chips", "said"),
    [({"conv9": 2}, None, "conv1, conv2, dense"), ({"conv1": 0}, None, "whole number from 1"), ({}, 0, "at least one")],
)
def test_bad_requests_are_refused(copies: dict[str, int], chips: int | None, said: str) -> None:
    with pytest.raises(CimcError, match=said):
        through(chain(BULK, LENET), PLACED, copies=copies, chips=chips)


def test_before_map_there_is_nothing_to_place() -> None:
    with pytest.raises(VerifyError, match="run pass `map` before"):
        through(chain(BULK, LENET), [Tile, Place])


def test_placing_again_changes_nothing() -> None:
    once = through(chain(BULK, LENET), PLACED, copies={"conv2": 3})
    twice = through(once, [Place], copies={"conv2": 3})
    for name, table in once.tensors.items():
        np.testing.assert_array_equal(twice.tensors[name], table)


def _loads(program: Program) -> Counter[tuple[int, int]]:
    """Firings of each tile for an image, added up by hand: a layer's copies share its positions."""
    loads: Counter[tuple[int, int]] = Counter()
    for layer, step in zip(program.layers, program.vmm_steps, strict=True):
        table = program.tensors[f"blocks/{layer.name}"]
        assert step.positions is not None
        for tile in {(int(b[CHIP]), int(b[TILE])) for b in table}:
            loads[tile] += -(-step.positions // (len(table) // layer.crossbars))
    return loads


@pytest.mark.parametrize("network", [LENET, VGG8], ids=["LeNet", "VGG-8"])
@pytest.mark.parametrize("name", ["bulk-rram", "bulk-rram-256", "isaac"])
def test_by_default_no_array_fires_more_often_than_the_slowest_layer(name: str, network: tuple[Matrix, ...]) -> None:
    """At few arrays: a tenth and two more than the area of the blocks, or than one layer's blocks, which are never together."""
    target = load_target(name)
    program, dense = (through(chain(t, network), PLACED) for t in (target, load_target(name, {"mapping.packing": "dense"})))
    slowest = max(m.positions or 0 for m in network)
    assert max(_loads(program).values()) == slowest
    assert max(_loads(dense).values()) > slowest
    blocks = np.concatenate([program.tensors[f"blocks/{m.name}"] for m in network]).astype(np.int64)
    area = (blocks[:, HEIGHT] * blocks[:, WIDTH]).sum() / ((target.array.rows or 1) * (target.array.columns or 1))
    assert len(_tiles(dense)) <= len(_tiles(program)) <= 1.1 * max(area, *(layer.crossbars for layer in program.layers)) + 2


def test_few_chips_force_layers_together_no_more_than_they_must() -> None:
    """Four layers of a tile each on two tiles: 10 + 1 and 6 + 4 firings are the best there is; with a tile more, 10."""
    layers = [Matrix(f"l{k}", 32, 32, positions=n) for k, n in enumerate((10, 6, 4, 1))]
    for tiles, busiest in ((4, 10), (3, 10), (2, 11), (1, 21)):
        data = BULK.model_dump()
        data["array"] |= {"tiles_per_chip": tiles, "columns": 128}
        loads = _loads(through(chain(Target.model_validate(data), layers), PLACED, chips=1))
        assert (max(loads.values()), len(loads) <= tiles) == (busiest, True)


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_placed_layers_never_wait_for_each_other(target: Target, layers: tuple[Matrix, ...], data: st.DataObject) -> None:
    copies = data.draw(copy_counts(layers))
    slowest = max(-(-(m.positions or 0) // copies.get(m.name, 1)) for m in layers)
    assert max(_loads(through(chain(target, layers), PLACED, copies=copies)).values()) == slowest


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_no_cell_is_taken_twice_and_nothing_fires_on_the_same_line(
    target: Target, layers: tuple[Matrix, ...], data: st.DataObject
) -> None:
    """An oracle without the verifier: paint every block on a canvas of all tiles."""
    copies = data.draw(copy_counts(layers))
    program = through(chain(target, layers), PLACED, copies=copies)
    tables = [program.tensors[f"blocks/{layer.name}"] for layer in program.layers]
    every = np.concatenate(tables)
    number = {at: k for k, at in enumerate(sorted(_tiles(program)))}
    size = int((every[:, ROW] + every[:, HEIGHT]).max()), int((every[:, COLUMN] + every[:, WIDTH]).max())
    assert size[0] <= (target.array.rows or size[0])
    assert size[1] <= (target.array.columns or size[1])
    cells = np.zeros((len(number), *size), np.int16)
    for layer, table in zip(program.layers, tables, strict=True):
        assert len(table) == layer.crossbars * copies.get(layer.name, 1)
        word_lines, bit_lines = np.zeros((len(number), size[0]), np.int16), np.zeros((len(number), size[1]), np.int16)
        for block in table.tolist():
            tile = number[block[CHIP], block[TILE]]
            rows = slice(block[ROW], block[ROW] + block[HEIGHT])
            columns = slice(block[COLUMN], block[COLUMN] + block[WIDTH])
            cells[tile, rows, columns] += 1
            word_lines[tile, rows] += 1
            bit_lines[tile, columns] += 1
        assert word_lines.max() == 1
        assert bit_lines.max() == 1
        for copy in range(copies.get(layer.name, 1)):
            part = table[copy * layer.crossbars : (copy + 1) * layer.crossbars, [CHIP, TILE]]
            assert len(np.unique(part, axis=0)) == len(part)
    assert cells.max() == 1
