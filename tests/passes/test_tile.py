"""`tile`: where matrices are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings

from cimc.errors import FitError
from cimc.ir.blocks import CHIP
from cimc.passes.tile import Tile
from cimc.targets.description import Target
from tests.ir.crossbar_programs import BULK, LENET, Matrix, chain, matrices, targets, through
from tests.passes.program_text import layer_text, new_lines, program


def _with(target: Target, **changes: dict[str, object]) -> Target:
    data = target.model_dump()
    for section, fields in changes.items():
        data[section] |= fields
    return Target.model_validate(data)


def test_text() -> None:
    """The example of the module's text."""
    layer, *blocks = new_lines(program(layer_text("conv2", 100, 12, "x", "y", more="channel_rows=25")), Tile())
    assert layer.endswith("channel_rows=25 row_cuts=[0, 50, 100] column_cuts=[0, 12]}")
    assert blocks == ["block 0.0.0", "block 0.1.0"]


def test_lenet_has_six_crossbars() -> None:
    assert [layer.crossbars for layer in through(chain(BULK, LENET), [Tile]).layers] == [1, 2, 3]


def test_rows_are_cut_plainly_on_request() -> None:
    target = _with(BULK, mapping={"split": "rows"})
    assert through(chain(target, LENET), [Tile]).layer("conv2").row_cuts == (0, 64, 100)


def test_an_array_without_limit_takes_a_matrix_whole() -> None:
    target = _with(BULK, array={"rows": None, "columns": None})
    assert [layer.crossbars for layer in through(chain(target, LENET), [Tile]).layers] == [1, 1, 1]


def test_column_tiles_hold_whole_weights() -> None:
    """65 bit lines hold 32 pairs, one bit line is left over."""
    target = _with(BULK, array={"columns": 65})
    assert through(chain(target, [Matrix("a", 8, 70)]), [Tile]).layer("a").column_cuts == (0, 32, 64, 70)


def test_groups_are_matrices_of_their_own() -> None:
    program = through(chain(BULK, [Matrix("a", 100, 12, channel_rows=25, groups=6, packing=2)]), [Tile])
    layer = program.layer("a")  # two groups packed: 200 x 24, three matrices
    assert (layer.groups, len(layer.row_cuts) - 1, len(layer.column_cuts) - 1) == (3, 4, 1)
    table = program.tensors["blocks/a"]
    assert table[:, :3].tolist() == [[g, s, 0] for g in range(3) for s in range(4)]
    assert (table[:, CHIP:] == -1).all()


def test_a_channel_taller_than_the_array_is_refused_with_levers() -> None:
    with pytest.raises(FitError) as error:
        through(chain(BULK, [Matrix("conv", 2 * 81, 4, channel_rows=81)]), [Tile])
    text = str(error.value)
    assert "layer conv" in text
    assert "81 rows > 64 rows" in text
    assert "17 rows too many" in text
    assert "--set mapping.split=rows" in text
    assert "--set array.rows=81" in text


@pytest.mark.parametrize("change", [{"mapping": {"split": "rows"}}, {"array": {"rows": 81}}])
def test_each_lever_helps(change: dict[str, dict[str, object]]) -> None:
    through(chain(_with(BULK, **change), [Matrix("conv", 2 * 81, 4, channel_rows=81)]), [Tile])


@settings(deadline=None)
@given(target=targets(), layers=matrices())
def test_cuts_are_the_published_counts(target: Target, layers: tuple[Matrix, ...]) -> None:
    """Row slices = ceil(channels / floor(rows / k*k)), column tiles = ceil(columns / floor(bit lines / planes))."""
    for matrix, layer in zip(layers, through(chain(target, layers), [Tile]).layers, strict=True):
        rows, columns = matrix.rows * matrix.packing, matrix.columns * matrix.packing
        if target.array.rows is None:
            slices = 1
        elif target.mapping.split == "rows":
            slices = -(-rows // target.array.rows)
        else:
            slices = -(-(rows // matrix.channel_rows) // (target.array.rows // matrix.channel_rows))
            assert all(cut % matrix.channel_rows == 0 for cut in layer.row_cuts)
        tiles = 1 if target.array.columns is None else -(-columns // (target.array.columns // target.planes))
        assert (len(layer.row_cuts) - 1, len(layer.column_cuts) - 1) == (slices, tiles)
        assert all(b - a <= (target.array.rows or rows) for a, b in pairwise(layer.row_cuts))
