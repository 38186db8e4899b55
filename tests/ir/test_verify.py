"""Each rule of the target IR, broken by exactly one change to a program that keeps them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import VerifyError
from cimc.ir.blocks import CHIP, COLUMN, HEIGHT, ROW, SLICE, TILE
from cimc.ir.geometry import Conv, ConvTranspose
from cimc.ir.program import DigitalStep, Program, ValueSpec
from cimc.ir.verify import verify
from cimc.passes.map import Map
from cimc.passes.tile import Tile
from cimc.targets.description import Target
from tests.ir.crossbar_programs import BULK, LENET, Matrix, chain, changed, copy_counts, matrices, targets, through

LENET_PROGRAM = through(chain(BULK, LENET))


def _replace(kind: str, index: int, program: Program = LENET_PROGRAM, **fields: Any) -> Program:
    """The program with fields of one layer or step changed."""
    items = list(getattr(program, kind))
    items[index] = items[index].model_copy(update=fields)
    return program.model_copy(update={kind: tuple(items)})


def _view(**fields: Any) -> Program:
    """With the weight view of conv2 changed."""
    return _replace("layers", 1, weight=LENET_PROGRAM.layers[1].weight.model_copy(update=fields))


def _geometry(index: int, **fields: Any) -> Program:
    return _replace("steps", index, geometry=LENET_PROGRAM.vmm_steps[index].geometry.model_copy(update=fields))


def _kernel(kind: type[Conv] | type[ConvTranspose], **fields: Any) -> Program:
    """The second step, 100 x 12, with a window of 5 x 5 (convolution) or 2 x 2 (transposed)."""
    size = 5 if kind is Conv else 2
    window = {"kernel_shape": (size, size), "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)} | fields
    extra = {} if kind is Conv else {"output_padding": (0, 0)}
    return _replace("steps", 1, geometry=kind.model_validate(window | extra))


def _block(layer: str, block: int, program: Program = LENET_PROGRAM, **fields: int) -> Program:
    """The program with fields of one block changed."""
    table = program.tensors[f"blocks/{layer}"].copy()
    names = {"slice": SLICE, "chip": CHIP, "tile": TILE, "row": ROW, "column": COLUMN, "height": HEIGHT}
    for name, value in fields.items():
        table[block, names[name]] = value
    return changed(program, **{f"blocks__{layer}": table})


def _segment(**fields: Any) -> Program:
    """The program with a digital step at its end."""
    step = DigitalStep(name="last", inputs=("x3",), outputs=("y",), nodes=("n",)).model_copy(update=fields)
    return LENET_PROGRAM.model_copy(update={"steps": (*LENET_PROGRAM.steps, step)})


def _more_copies(rows: int) -> Program:
    """The first rows of the table of conv2 once more."""
    table = LENET_PROGRAM.tensors["blocks/conv2"]
    return changed(LENET_PROGRAM, blocks__conv2=np.concatenate([table, table[:rows]]))


def _two_copies(**second: int) -> Program:
    """Two copies of conv1 on one tile, the second moved."""
    program = through(chain(BULK, LENET[:1]), copies={"conv1": 2})
    return _block("conv1", 1, program, **second)


def _two_of(kind: str) -> Program:
    items = getattr(LENET_PROGRAM, kind)
    return LENET_PROGRAM.model_copy(update={kind: (*items, items[0])})


def _units() -> Program:
    data = BULK.model_dump()
    data["array"] |= {"unit_column": True}
    program = through(chain(BULK, LENET[:1]), copies={"conv1": 2})
    return program.model_copy(update={"target": Target.model_validate(data)})


BROKEN: dict[str, tuple[Callable[[], Program], str, str]] = {
    # rule: (a program that breaks it, where, what)
    "two layers of one name": (lambda: _two_of("layers"), "layer conv1", "two layers"),
    "two steps of one name": (lambda: _two_of("steps"), "step conv1.step", "two steps"),
    "two inputs of one name": (lambda: _two_of("inputs"), "input x0", "two inputs"),
    "value never made": (lambda: _replace("steps", 1, input="nowhere"), "step conv2.step", "value nowhere .* before it is made"),
    "value used before it is made": (
        lambda: LENET_PROGRAM.model_copy(update={"steps": LENET_PROGRAM.steps[::-1]}),
        "step dense.step",
        "move the step behind",
    ),
    "value made twice": (lambda: _replace("steps", 2, output="x1"), "step dense.step", "x1 is made a second time"),
    "output never made": (
        lambda: LENET_PROGRAM.model_copy(update={"outputs": (ValueSpec(name="y", dtype="float32", shape=None),)}),
        "output y",
        "no step makes it",
    ),
    "unknown layer": (lambda: _replace("steps", 1, layer="conv9"), "step conv2.step", "no layer conv9"),
    "no segment": (_segment, "step last", "no tensor segment/last"),
    "steps of one stage wait for each other": (lambda: _replace("steps", 1, stage=0), "step conv2.step", "stage 0"),
    "no weight": (lambda: _view(tensor="gone"), "layer conv2", "no tensor initializer/gone"),
    "index outside of the weight": (lambda: _view(index=(1,)), "layer conv2", "outside of conv2.weight"),
    "split of another size": (lambda: _view(split=(1, 12, 99)), "layer conv2", "do not view"),
    "perm that is none": (lambda: _view(perm=(0, 2, 2)), "layer conv2", "do not view"),
    "matrix of another size": (lambda: _view(shape=(1, 100, 11)), "layer conv2", "does not hold the 1200 weights"),
    "packs that do not divide the groups": (lambda: _replace("layers", 1, group_packing=2), "layer conv2", "packs of 2"),
    "rows that are no whole channels": (lambda: _replace("layers", 1, channel_rows=24), "layer conv2", "24 rows a channel"),
    "weight_max of another size": (
        lambda: changed(LENET_PROGRAM, weight_max__conv2=np.ones(11, np.float32)), "layer conv2", "each of 12 columns",
    ),
    "row cuts that do not rise": (lambda: _replace("layers", 1, row_cuts=(0, 50, 50, 100)), "layer conv2", "row_cuts"),
    "column cuts that end early": (lambda: _replace("layers", 1, column_cuts=(0, 11)), "layer conv2", "from 0 to 12"),
    "cut one way only": (lambda: _replace("layers", 1, column_cuts=()), "layer conv2", "one way only"),
    "scale of another size": (
        lambda: changed(LENET_PROGRAM, **{"scale__conv2.step": np.ones(11, np.float32)}), "step conv2.step", "each of 12 output",
    ),
    "offset of another type": (
        lambda: changed(LENET_PROGRAM, **{"offset__conv2.step": np.ones(12, np.int64)}), "step conv2.step", "offset is int64",
    ),
    "input_perm that is none": (lambda: _geometry(1, input_perm=(0, 0)), "step conv2.step", "no permutation"),
    "more kept axes than there are": (lambda: _geometry(1, kept=3), "step conv2.step", "3 kept axes of 2"),
    "outputs of another size": (lambda: _geometry(1, output_dims=(11,)), "step conv2.step", "12 columns of conv2"),
    "kernel that does not fit the rows": (lambda: _kernel(Conv, kernel_shape=(3, 3)), "step conv2.step", "9 taps .* 100 rows"),
    "kernel that does not fit the columns": (
        lambda: _kernel(ConvTranspose, kernel_shape=(5, 5)), "step conv2.step", "25 taps .* 12 columns",
    ),
    "strides of another rank": (lambda: _kernel(Conv, strides=(1,)), "step conv2.step", "kernel of 2 axes"),
    "no block table": (lambda: changed(LENET_PROGRAM, blocks__conv2=None), "layer conv2", "no tensor blocks/conv2"),
    "blocks without cuts": (lambda: _replace("layers", 1, row_cuts=(), column_cuts=()), "layer conv2", "without cuts"),
    "block table of another type": (
        lambda: changed(LENET_PROGRAM, blocks__conv2=LENET_PROGRAM.tensors["blocks/conv2"].astype(np.int64)),
        "layer conv2",
        "int64",
    ),
    "block that is no part of the matrix": (lambda: _block("conv2", 1, slice=2), "layer conv2", "slice 2.* no part"),
    "weight mapped twice within a copy": (lambda: _block("conv2", 1, slice=0), "layer conv2", "mapped 2 times in copy 0"),
    "weight mapped nowhere": (
        lambda: changed(LENET_PROGRAM, blocks__conv2=LENET_PROGRAM.tensors["blocks/conv2"][:1]),
        "layer conv2",
        "slice 1.* mapped nowhere in copy 0",
    ),
    "half a second copy": (lambda: _more_copies(1), "layer conv2", "slice 1.* mapped nowhere in copy 1"),
    "block of another shape": (lambda: _block("conv2", 1, height=49), "layer conv2", "49 x 24, its part of the matrix 50 x 24"),
    "block without a place": (lambda: _block("conv2", 1, chip=-1), "layer conv2", "has no place"),
    "tile that the chip has not": (lambda: _block("conv2", 1, tile=4), "layer conv2", "tile 4 of a chip of 4"),
    "block above the rows": (lambda: _block("conv2", 1, row=15), "layer conv2", "leaves its tile of 64 x 64"),
    "block beyond the columns": (lambda: _block("conv2", 1, column=41), "layer conv2", "leaves its tile of 64 x 64"),
    "two blocks on one cell": (lambda: _block("conv2", 1, column=19), "layer", "lies on cells of layer"),
    "slices of one layer on one tile": (
        lambda: _block("dense", 2, tile=1, column=44), "layer dense", "fire together on chip 0, tile 1",
    ),
    "copies on the same word lines": (lambda: _two_copies(row=24), "layer conv1", "fire together"),
    "copies on the same bit lines": (lambda: _two_copies(column=7), "layer conv1", "fire together"),
    "copies under one unit column": (_units, "layer conv1", "fire together"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_named_with_place_and_way_out(rule: str) -> None:
    make, where, what = BROKEN[rule]
    with pytest.raises(VerifyError, match=f"(?s){where}.*{what}") as error:
        verify(make())
    assert error.value.fix


@pytest.mark.parametrize(
    "program",
    [
        LENET_PROGRAM,
        chain(BULK, LENET),
        through(chain(BULK, LENET), [Tile]),
        through(chain(BULK, LENET), [Tile, Map]),
        _two_copies(row=25),
        _two_copies(column=8),
        _kernel(Conv),
        _kernel(ConvTranspose),
        changed(_segment(), segment__last=np.zeros(0, np.uint8)),
        changed(_segment(inputs=("conv1.weight",)), segment__last=np.zeros(0, np.uint8)),
        changed(LENET_PROGRAM, weight_max__conv2=np.ones(12, np.float32)),
    ],
)
def test_what_keeps_the_rules_passes_at_every_stage(program: Program) -> None:
    verify(program)


def test_a_scale_has_an_entry_for_each_channel_of_a_transposed_convolution() -> None:
    program = _kernel(ConvTranspose)  # 12 columns, 2 x 2 taps: three channels
    verify(changed(program, **{"scale__conv2.step": np.ones(3, np.float32)}))
    with pytest.raises(VerifyError, match="each of 3 output channels"):
        verify(changed(program, **{"scale__conv2.step": np.ones(12, np.float32)}))


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_what_the_passes_make_keeps_the_rules(target: Target, layers: tuple[Matrix, ...], data: st.DataObject) -> None:
    verify(through(chain(target, layers), copies=data.draw(copy_counts(layers))))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_one_block_moved_onto_another_is_seen(data: st.DataObject) -> None:
    """Whatever the layers: put a block where another already lies."""
    program = through(chain(BULK, data.draw(matrices())))
    tables = {layer.name: program.tensors[f"blocks/{layer.name}"] for layer in program.layers}
    places = [(name, k) for name, table in tables.items() for k in range(len(table))]
    if len(places) < 2:
        return
    one, other = data.draw(st.permutations(places))[:2]
    moved = tables[one[0]].copy()
    moved[one[1], CHIP : COLUMN + 1] = tables[other[0]][other[1], CHIP : COLUMN + 1]
    with pytest.raises(VerifyError, match=r"lies on cells|fire together|leaves its tile"):
        verify(changed(program, **{f"blocks__{one[0]}": moved}))
