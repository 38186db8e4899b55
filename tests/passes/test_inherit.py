"""`inherit`: a training step has the layers of the program that it was made from."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

import cimc
from cimc.errors import CimcError, VerifyError
from cimc.ir.parser import parse_program
from cimc.passes.base import Compilation
from cimc.passes.manager import PassManager
from cimc.passes.map import Map
from cimc.passes.place import Place
from cimc.passes.tile import Tile
from cimc.passes.training.inherit import Inherit
from cimc.training.step import Step, training_program
from tests.passes.program_text import layer_text, new_lines, program
from tests.passes.vmm_reference import oracle, parse

STEP = program(layer_text("fc", 16, 10, "x", "y"))
CODED = program(layer_text("fc", 16, 10, "x", "y", more='coding={"gain": 255, "signed": false, "full_scale": 1} adc_range_ua=70'))


def placed(text: str) -> cimc.Program:
    """The program of a text, with cuts and places."""
    made = parse_program(text)
    state = Compilation(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), made.target, made)
    return PassManager((Tile(), Map(), Place())).run(state).need_program()


def test_text() -> None:
    """The example of the module's text."""
    layer, block = new_lines(STEP, Inherit(placed(CODED)))
    assert '"gain":255' in re.sub(r"\s", "", layer)
    assert layer.endswith("adc_range_ua=70.0 row_cuts=[0, 16] column_cuts=[0, 10]}")
    assert block == "block 0.0.0: 16 x 20 at 0.0[0, 0]"


@pytest.mark.parametrize(("name", "columns"), [("other", 10), ("fc", 9)])
def test_a_step_of_another_layer_is_refused(name: str, columns: int) -> None:
    with pytest.raises(CimcError, match=f"layer {name}: the training step has another layer than the program"):
        new_lines(program(layer_text(name, 16, columns, "x", "y")), Inherit(placed(CODED)))


def test_a_graph_that_is_not_lowered_is_refused() -> None:
    made = placed(CODED)
    state = Compilation(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), made.target)
    with pytest.raises(VerifyError, match="run pass `lower` before"):
        PassManager([Inherit(made)]).run(state)


def test_the_step_computes_what_the_program_does() -> None:
    """On an ideal chip, and as ONNX Runtime."""
    rng = np.random.default_rng(4)
    w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 3), (5, 6)))
    model = parse("g (float[n,6] x) => (float[n,3] y) { [fc] h = MatMul (x, w)  y = Tanh (h) }", w=w)
    chip = cimc.Chip(cimc.compile(model, "ideal"))
    step = Step(training_program(chip.program, loss="mse", verify=True), chip)
    found = step.run({"x": x}, np.zeros((5, 3), np.float32)).outputs["y"]
    np.testing.assert_array_equal(found, chip.run({"x": x})["y"])
    np.testing.assert_allclose(found, oracle(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
