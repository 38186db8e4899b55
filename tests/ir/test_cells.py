"""Cells: a chip read by hand with the table gives the weights back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CimcError
from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, ROW, TILE, WIDTH
from cimc.ir.cells import cells, weight_indices
from cimc.ir.encoding import encode, quantise
from cimc.ir.program import Program, weight_matrix
from cimc.passes.map import Map
from cimc.passes.tile import Tile
from cimc.targets.description import Target
from tests.ir.crossbar_programs import BULK, LENET, Matrix, chain, copy_counts, matrices, targets, through

LENET_PROGRAM = through(chain(BULK, LENET))


def _memory(program: Program) -> dict[tuple[int, int], np.ndarray]:
    """A fake chip: the digits on every tile, written block by block as `encode` says."""
    target = program.target
    tables = {layer.name: program.tensors[f"blocks/{layer.name}"] for layer in program.layers}
    every = np.concatenate(list(tables.values()))
    size = (every[:, [ROW, COLUMN]] + every[:, [HEIGHT, WIDTH]]).max(axis=0)
    memory = {(int(chip), int(tile)): np.full(size, np.nan) for chip, tile in every[:, [CHIP, TILE]]}
    for layer in program.layers:
        matrix = weight_matrix(program, layer).astype(np.float64) % 4 - 2  # -2 to 1, which two bits hold
        digits = encode(matrix, np.array([2.0]), layer.row_cuts, target).g_us
        lines = digits.swapaxes(2, 3).reshape(layer.groups, layer.rows, -1)  # planes of a column side by side
        for group, part, tile, chip, number, row, column, height, width in tables[layer.name].tolist():
            top, left = layer.row_cuts[part], layer.column_cuts[tile] * target.planes
            memory[chip, number][row : row + height, column : column + width] = lines[
                group, top : top + height, left : left + width
            ]
    return memory


def test_every_weight_of_lenet_has_a_pair() -> None:
    table = cells(LENET_PROGRAM, "conv2")
    assert len(table) == 2400
    weights, counts = np.unique(table["weight"], return_counts=True)
    assert (weights == np.arange(1200)).all()
    assert (counts == 2).all()
    assert sorted(set(zip(table["sign"].tolist(), table["slice"].tolist(), strict=True))) == [(-1, 0), (1, 0)]


def test_a_pair_lies_on_adjacent_columns() -> None:
    table = cells(LENET_PROGRAM, "conv1")
    plus, minus = (np.sort(table[table["sign"] == sign], order="weight") for sign in (1, -1))
    assert (plus["column"] + 1 == minus["column"]).all()
    assert (plus["row"] == minus["row"]).all()


def test_a_weight_by_hand() -> None:
    """conv2's weight is stored [1, columns, rows]; row 60 is row 10 of the second slice, column 3 is bit lines 6 and 7."""
    table = cells(LENET_PROGRAM, "conv2")
    chip, tile, row, column = LENET_PROGRAM.tensors["blocks/conv2"][1, 3:7].tolist()
    found = table[(table["index"] == (0, 3, 60)).all(axis=1)]
    assert found["weight"].tolist() == [3 * 100 + 60] * 2
    places = [tuple(int(cell[name]) for name in ("chip", "tile", "row", "column", "sign")) for cell in found]
    assert places == [(chip, tile, row + 10, column + 6, 1), (chip, tile, row + 10, column + 7, -1)]


def test_some_blocks_only() -> None:
    whole = cells(LENET_PROGRAM, "dense")
    parts = [cells(LENET_PROGRAM, "dense", slice(k, k + 1)) for k in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_an_unknown_layer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(CimcError, match="conv1, conv2, dense"):
        cells(LENET_PROGRAM, "conv9")


def test_before_place_there_are_no_cells() -> None:
    with pytest.raises(CimcError, match="no place yet"):
        cells(through(chain(BULK, LENET), [Tile, Map]), "conv1")


@settings(deadline=None, max_examples=40)
@given(layers=matrices())
def test_weight_indices_view_as_the_weight_matrix_does(layers: tuple[Matrix, ...]) -> None:
    program = chain(BULK, layers)
    for layer in program.layers:
        tensor = program.tensors[f"initializer/{layer.weight.tensor}"]
        which = weight_indices(layer, tensor.shape)
        np.testing.assert_array_equal(np.where(which >= 0, tensor.reshape(-1)[which], 0), weight_matrix(program, layer))


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_reading_the_chip_cell_by_cell_gives_the_weights_back(
    target: Target, layers: tuple[Matrix, ...], data: st.DataObject
) -> None:
    copies = data.draw(copy_counts(layers[:1]))
    program = through(chain(target, layers[:1]), copies=copies)
    memory, layer = _memory(program), program.layers[0]
    table = cells(program, layer.name)
    shape = program.tensors[f"initializer/{layer.weight.tensor}"].shape
    tiles = {at: k for k, at in enumerate(memory)}
    number = [tiles[at] for at in zip(table["chip"].tolist(), table["tile"].tolist(), strict=True)]
    read = np.stack(list(memory.values()))[number, table["row"], table["column"]]
    found = np.zeros((copies.get(layer.name, 1), int(np.prod(shape))))
    np.add.at(found, (table["copy"], table["weight"]), table["sign"] * read * 2.0 ** table["slice"].astype(float))
    assert (np.ravel_multi_index(tuple(table["index"].T), shape) == table["weight"]).all()
    places = np.stack([table[k] for k in ("chip", "tile", "row", "column")], axis=1)
    assert len(np.unique(places, axis=0)) == len(table)
    stored = _stored_steps(program)
    np.testing.assert_allclose(found, np.broadcast_to(stored, found.shape))


def _stored_steps(program: Program) -> np.ndarray:
    """What the digits of each weight should add up to, by the formula of the encoding."""
    target = program.target
    layer = program.layers[0]
    tensor = program.tensors[f"initializer/{layer.weight.tensor}"].astype(np.float64).reshape(-1) % 4 - 2
    steps = quantise(tensor.reshape(1, -1, 1), np.array([2.0]), target).reshape(-1)
    if target.weights.representation == "differential_pair":
        return steps
    return steps + (0.5 if target.weights.bits is None else 2.0 ** (target.weights.bits - 1))
