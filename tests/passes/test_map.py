"""`map`: the physical shape of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from cimc.errors import VerifyError
from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, WIDTH
from cimc.ir.program import weight_matrix
from cimc.passes.map import Map
from cimc.passes.tile import Tile
from cimc.targets.description import Adc, Device, Target, Weights
from cimc.targets.description import Array as CrossbarArray
from tests.ir.crossbar_programs import BULK, LENET, Matrix, chain, matrices, targets, through
from tests.passes.program_text import layer_text, new_lines, program


def test_text() -> None:
    """Pairs take two bit lines a weight."""
    cuts, blocks = "row_cuts=[0, 50, 100] column_cuts=[0, 12]", "block 0.0.0 block 0.1.0"
    text = program(layer_text("conv2", 100, 12, "x", "y", more=cuts, blocks=blocks))
    assert new_lines(text, Map()) == ["block 0.0.0: 50 x 24", "block 0.1.0: 50 x 24"]


def test_bit_slices_take_a_bit_line_each() -> None:
    """ISAAC (Shafiee et al., ISCA 2016): 16-bit weights over eight 2-bit cells, 16 weights on 128 bit lines."""
    target = Target(
        name="isaac",
        array=CrossbarArray(rows=128, columns=128, unit_column=True),
        device=Device(levels=4),
        weights=Weights(representation="offset", bits=16, cells=8),
        adc=Adc(bits=8),
    )
    program = through(chain(target, [Matrix("a", 130, 20)]), [Tile, Map])
    assert program.tensors["blocks/a"][:, HEIGHT:].tolist() == [[128, 128], [128, 32], [2, 128], [2, 32]]


def test_places_are_left_open() -> None:
    program = through(chain(BULK, LENET), [Tile, Map])
    assert (program.tensors["blocks/dense"][:, CHIP : COLUMN + 1] == -1).all()


def test_an_uncut_layer_is_refused() -> None:
    with pytest.raises(VerifyError, match="run pass `tile` before"):
        through(chain(BULK, LENET), [Map])


@settings(deadline=None)
@given(target=targets(), layers=matrices())
def test_blocks_add_up_to_the_matrix_and_fit_the_array(target: Target, layers: tuple[Matrix, ...]) -> None:
    program = through(chain(target, layers), [Tile, Map])
    for layer in program.layers:
        table = program.tensors[f"blocks/{layer.name}"].astype(np.int64)
        assert (table[:, HEIGHT] * table[:, WIDTH]).sum() == layer.groups * layer.rows * layer.columns * target.planes
        assert (table[:, HEIGHT] <= (target.array.rows or layer.rows)).all()
        assert (table[:, WIDTH] <= (target.array.columns or layer.columns * target.planes)).all()


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices())
def test_the_products_of_the_blocks_add_up_to_the_product(target: Target, layers: tuple[Matrix, ...]) -> None:
    """Cutting and mapping change no result: whole numbers, so equal to the last bit."""
    program = through(chain(target, layers), [Tile, Map])
    for layer in program.layers:
        matrix = weight_matrix(program, layer).astype(np.int64)
        x = np.arange(layer.groups * layer.rows).reshape(layer.groups, layer.rows) % 7
        y = np.zeros((layer.groups, layer.columns), np.int64)
        for group, part, tile, *_, height, width in program.tensors[f"blocks/{layer.name}"].tolist():
            top, left = layer.row_cuts[part], layer.column_cuts[tile]
            rows, columns = slice(top, top + height), slice(left, left + width // target.planes)
            y[group, columns] += x[group, rows] @ matrix[group, rows, columns]
        np.testing.assert_array_equal(y, np.einsum("gr,grc->gc", x, matrix))
