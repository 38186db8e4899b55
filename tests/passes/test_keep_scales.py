"""`keep-scales`: layers take over the full scales of another program."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from cimc.errors import VerifyError
from cimc.ir.parser import parse_program
from cimc.passes.base import Compilation
from cimc.passes.keep_scales import KeepScales
from cimc.passes.manager import PassManager
from tests.passes.program_text import layer_text, new_lines, program


def coded(name: str, full_scale: float, more: str = "") -> str:
    """One layer with an 8-bit input code."""
    coding = f'coding={{"gain": {255 / full_scale}, "signed": false, "full_scale": {full_scale}}}'
    span = f"tensor weight_max/{name}: float32[1] = [1]"
    return program(layer_text(name, 16, 10, "x", "y", more=f"{coding} {more}"), span)


SOURCE = parse_program(coded("fc", 0.25))


def test_text() -> None:
    """The example of the module's text: four times the gain for a quarter of the full scale."""
    (line,) = new_lines(coded("fc", 1.0), KeepScales(SOURCE))
    assert '"gain": 1020' in line
    assert '"full_scale": 0.25' in line


def test_samples_follow() -> None:
    made = parse_program(coded("fc", 1.0))
    samples = {"fc": np.full((2, 1, 16), 0.8, np.float32)}
    state = Compilation(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), made.target, made, samples=samples)
    PassManager([KeepScales(SOURCE)]).run(state)
    np.testing.assert_allclose(state.samples["fc"], 0.2, rtol=1e-6)


def test_a_layer_of_another_shape_stays_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    other = program(layer_text("fc", 16, 9, "x", "y", more='coding={"gain": 255, "signed": false, "full_scale": 1.0}'))
    with caplog.at_level("INFO", "cimc"):
        assert new_lines(other, KeepScales(SOURCE)) == []
    assert any("keep-scales: nothing changed: no layer has the name and the shape" in line for line in caplog.messages)


def test_a_layer_that_has_its_range_is_refused() -> None:
    with pytest.raises(VerifyError, match="run this pass before `ranges`"):
        new_lines(coded("fc", 1.0, more="adc_range_ua=70"), KeepScales(SOURCE))
