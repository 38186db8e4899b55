"""The section of wires: a chip may lack it, and then is written as ever; commands tell what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.app import app
from cimc.errors import TargetError
from cimc.targets.description import Wires, figures_of
from cimc.targets.load import load_target

SET = ["array.wires.row_segment_ohm=1", "array.wires.column_segment_ohm=1"]


def test_no_built_in_chip_has_wires_and_all_are_written_as_before() -> None:
    for name in ("ideal", "bulk-rram", "bulk-rram-256", "isaac"):
        target = load_target(name)
        assert target.array.wires is None
        assert "wires" not in target.model_dump_json()
        assert not any("wires" in path for path in figures_of(target))


def test_given_as_a_whole_or_figure_by_figure() -> None:
    assert load_target("bulk-rram", ["array.wires={}"]).array.wires == Wires()
    target = load_target("bulk-rram", SET)
    assert target.array.wires == Wires(row_segment_ohm=1.0, column_segment_ohm=1.0)
    assert load_target(target, ["array.wires=null"]).array.wires is None
    assert load_target("ideal").is_ideal
    assert not load_target("ideal", SET).is_ideal


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("row_segment_ohm=-1", "at least 0"),
        ("sense_ohm=1e10", "at most 1000000000"),
        ("driven_from=top", "'left', 'right' or 'both'"),
        ("sensed_from=left", "'bottom', 'top' or 'both'"),
        ("ohm=1", "no field 'array.wires.ohm'"),
    ],
)
def test_what_is_no_wire_is_refused(setting: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load_target("bulk-rram", [f"array.wires.{setting}"])


def test_a_run_notes_that_the_solver_is_rough(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[n, 9] x) => (float[n, 4] y) { y = MatMul (x, w) }'
    )
    weights = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    target = load_target("bulk-rram", ["array.wires.column_segment_ohm=100", "array.wires.row_segment_ohm=100"])
    cimc.compile(model, target).save(tmp_path / "m.cim")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 9), np.float32))
    result = CliRunner().invoke(app, ["run", f"{tmp_path}/m.cim", "--input", f"{tmp_path}/x.npz", "-o", f"{tmp_path}/y.npz"])
    assert result.exit_code == 0, result.output
    assert "note: target bulk-rram: IR drop of a 64x64 array" in result.stderr
    assert "UserWarning" not in result.stderr


def test_commands_tell_the_drop_and_the_error_of_the_solver() -> None:
    def told(*more: str) -> str:
        options = [part for setting in (*SET, *more) for part in ("--set", setting)]
        result = CliRunner().invoke(app, ["targets", "show", "bulk-rram", *options])
        assert result.exit_code == 0
        return " ".join(result.stderr.split())

    assert "IR drop of a 64x64 array" in told()
    assert "fast solver's currents are off by" in told()
    assert "fast" not in told("array.wires.solver=exact")
    assert "array.wires.solver=exact" in told("array.rows=256", "array.columns=256", "array.wires.driver_ohm=500")
    assert "no limit" in told("array.rows=null")
    assert "IR drop" not in CliRunner().invoke(app, ["targets", "show", "bulk-rram"]).stderr
