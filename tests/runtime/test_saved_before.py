"""A chip that was saved before is read as it was: a file of an earlier commit, trained, aged and compensated for drift."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import cimc

FILE = Path(__file__).parents[1] / "data" / "aged_chip.cim"


def test_a_chip_of_an_earlier_version_is_read_whole():
    program = cimc.load(FILE)
    state = {name: tensor for name, tensor in program.tensors.items() if name.startswith("state/")}
    for part in ("g_us", "device.written_s", "drift_factor", "weights", "delta", "writes"):
        assert f"state/Conv_0/{part}" in state
    c = cimc.Chip(program)
    assert c.time_s == 3600
    assert (c.draws.trained, c.draws.evaluations) == (16, 1)
    for name, crossbar in c.crossbars.items():
        held = crossbar.held[0]
        np.testing.assert_array_equal(held.g_us, state[f"state/{name}/g_us"])
        assert set(np.unique(held.arrays["written_s"])) == {0.0}
        np.testing.assert_array_equal(crossbar.factors[0].columns, state[f"state/{name}/drift_factor"][0])
        assert (crossbar.present[0].g_us < held.g_us).any()  # it drifts
    again = c.trained_program().tensors
    assert {name for name in again if name.startswith("state/")} == set(state)
    for name, tensor in state.items():
        assert (again[name].dtype, again[name].tobytes()) == (tensor.dtype, tensor.tobytes()), name
