"""`read-calibration`: data for the inputs that are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cimc.errors import CimcError, DataError, VerifyError
from cimc.ir.program import Preprocessing
from cimc.passes.calibrate import Calibrate
from cimc.passes.legalise import Legalise
from cimc.passes.manager import PassManager
from cimc.passes.select import Select
from cimc.passes.specialise import Specialise
from cimc.pipeline import ReadCalibration
from cimc.targets.load import load_target
from tests.passes.graph_text import nodes, through
from tests.passes.vmm_reference import parse

MODEL = parse("g (float[n,2] x, float[2] s) => (float[n,2] y) { [m] y = Mul (x, s) }")
X: Any = np.ones((3, 2), np.float32)
S: Any = np.array([2, 3], np.float32)


def test_text() -> None:
    """The graph stays as it is; data of a bound input go."""
    state = through(MODEL, Specialise({"s": S}), ReadCalibration({"x": X, "s": S}))
    assert nodes(state.model) == ["[m] y = Mul (x, s)"]
    assert state.calibration is not None
    assert list(state.calibration) == ["x"]


def test_a_file_is_read_for_the_inputs_that_are_left(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X)
    state = through(MODEL, Specialise({"s": S}), ReadCalibration(tmp_path / "d.npz"))
    assert state.calibration is not None
    np.testing.assert_array_equal(state.calibration["x"], X)


def test_no_data_are_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cimc"):
        assert through(MODEL, ReadCalibration()).calibration is None
    assert "read-calibration: nothing changed: no calibration data are given" in caplog.messages


def test_another_value_of_a_bound_input_is_refused() -> None:
    with pytest.raises(DataError, match="compiled with another value of s"):
        through(MODEL, Specialise({"s": S}), ReadCalibration({"x": X, "s": S + 1}))


def test_preprocessing_of_two_inputs_is_refused() -> None:
    with pytest.raises(CimcError, match="preprocessing is for a model of one input, this one has 2"):
        through(MODEL, ReadCalibration(preprocessing=Preprocessing()))


def test_inputs_that_are_calibrated_are_refused() -> None:
    model = parse("g (float[n,2] x) => (float[n,3] y) { [fc] y = MatMul (x, w) }", w=np.ones((2, 3), np.float32))
    state = through(model, Legalise(), Select())
    state.target = load_target("bulk-rram")
    with pytest.raises(VerifyError, match="run this pass before `calibrate`"):
        PassManager((Calibrate(), ReadCalibration({"x": X}))).run(state)
