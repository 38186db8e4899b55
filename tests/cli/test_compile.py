"""`cimc compile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cimc.ir.artifact import load
from cimc.pipeline import PASS_NAMES
from tests.cli.conftest import cimc


def test_json_tells_where_it_went_and_what_it_costs(made: Path, tmp_path: Path) -> None:
    done = cimc("compile", made / "small.onnx", "-o", tmp_path / "m.cim", "--json")
    assert done.code == 0
    assert done.json["output"] == str(tmp_path / "m.cim")
    assert done.json["target"] == "bulk-rram"
    assert done.json["nodes"] == {"analog": 2, "digital": 2, "folded": 0}
    assert done.json["cost"]["devices"] == 2 * (27 + 192)
    assert done.json["cost"]["ops"] == 16 + 1
    assert [layer.rows for layer in load(tmp_path / "m.cim").layers] == [9, 48]


def test_default_output_is_the_model_s_name(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cimc("compile", made / "small.onnx")
    assert done.code == 0
    assert "small.cim" in done.out
    assert [p.name for p in tmp_path.iterdir()] == ["small.cim"]


def test_settings_reach_the_target(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.cim"
    assert cimc("compile", made / "small.onnx", "--set", "array.rows=32", "--set", "dac.bits=6", "-o", path).code == 0
    target = load(path).target
    assert (target.array.rows, target.dac.bits) == (32, 6)


@pytest.mark.parametrize("file", ["images.npz", "data.npz"])
def test_calibration_with_a_data_file_replaces_the_synthetic_input(made: Path, tmp_path: Path, file: str) -> None:
    path = tmp_path / "m.cim"
    assert cimc("compile", made / "small.onnx", "--calibration", made / file, "-o", path).code == 0
    largest = float(np.load(made / "images.npz")["input"].max())
    assert load(path).layer("conv").coding.full_scale == pytest.approx(largest, rel=1e-3)


def test_calibration_images_are_preprocessed(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.cim"
    options = ("--calibration", made / "data.npz", "--scale", "3", "--mean", "0.5", "--std", "2")
    assert cimc("compile", made / "small.onnx", *options, "-o", path).code == 0
    largest = (3 * float(np.load(made / "data.npz")["x"].max()) - 0.5) / 2  # uint8 as it stands
    assert load(path).layer("conv").coding.full_scale == pytest.approx(largest, rel=1e-3)
    done = cimc("evaluate", path, "--data", made / "data.npz", "--model", made / "small.onnx")
    assert done.code == 0, done.err


def test_preprocessing_is_stored(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.cim"
    assert cimc("compile", made / "small.onnx", "--scale", "2", "--mean", "0.5", "--std", "0.25", "-o", path).code == 0
    stored = load(path).preprocessing
    assert stored is not None
    assert (stored.scale, stored.mean, stored.std) == (2.0, (0.5,), (0.25,))


def test_stop_after_and_emit_onnx_give_a_checked_graph(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    assert cimc("compile", made / "small.onnx", "--stop-after", "select", "--emit", "onnx", "-o", path).code == 0
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path))
    assert [node.op_type for node in graph.node] == ["Vmm", "Relu", "Flatten", "Vmm"]


def test_emit_onnx_before_select_still_is_the_model(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    assert cimc("compile", made / "small.onnx", "--stop-after", "fold", "--emit", "onnx", "-o", path).code == 0
    x = np.load(made / "images.npz")["input"]
    one, other = (ort.InferenceSession(str(p)).run(None, {"input": x})[0] for p in (made / "small.onnx", path))
    np.testing.assert_array_equal(one, other)


def test_emit_text_and_json_go_to_standard_output(made: Path) -> None:
    text = cimc("compile", made / "small.onnx", "--emit", "text")
    assert text.out.startswith("program schema=")
    assert "vmm @conv" in text.out
    program = json.loads(cimc("compile", made / "small.onnx", "--emit", "json").out)
    assert [layer["name"] for layer in program["layers"]] == ["conv", "dense"]


def test_emitted_text_is_inside_the_json_object(made: Path) -> None:
    done = cimc("compile", made / "small.onnx", "--emit", "text", "--json")
    assert done.json["emitted"].startswith("program schema=")


def test_print_after_shows_the_stage(made: Path, tmp_path: Path) -> None:
    arguments = ("compile", made / "small.onnx", "-o", tmp_path / "m.cim", "--print-after", "select", "--print-after", "place")
    done = cimc(*arguments)
    assert done.out.index("# after select") < done.out.index("# after place")
    assert "Vmm" in done.out
    with_json = cimc(*arguments, "--json")
    assert with_json.json["output"] == str(tmp_path / "m.cim")
    assert "# after place" in with_json.err


def test_time_passes_names_every_pass(made: Path, tmp_path: Path) -> None:
    arguments = ("compile", made / "small.onnx", "-o", tmp_path / "m.cim", "--time-passes", "--verify")
    assert [p["name"] for p in cimc(*arguments, "--json").json["passes"]] == list(PASS_NAMES)
    assert all(name in cimc(*arguments).out for name in PASS_NAMES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "nochip"], "nochip"),
        (["--set", "array.rows=many"], "array.rows"),
        (["--set", "array.height=3"], "height"),
        (["--stop-after", "nopass"], "no pass is called nopass"),
        (["--print-after", "nopass"], "no pass is called nopass"),
        (["--emit", "onnx"], "add -o"),
        (["--emit", "yaml"], "yaml"),
        (["--copies", "conv"], "LAYER=NUMBER"),
        (["--copies", "conv=0"], "LAYER=NUMBER"),
        (["--mean", "a"], "finite numbers"),
        (["--mean", "nan"], "finite numbers"),
        (["--mean", "0.5,inf"], "finite numbers"),
        (["--std", "inf"], "finite numbers"),
        (["--std", "1,-1"], "not above 0"),
        (["--scale", "nan"], "finite number"),
        (["--scale", "0"], "other than 0"),
        (["--std", "0"], "not above 0"),
        (["--calibration", "missing.npz"], "no such file"),
        (["--stop-after", "tile", "-o", "half.cim"], "half-way"),
        (["--chips", "0"], "--chips"),
    ],
)
def test_bad_options_are_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cimc("compile", made / "small.onnx", *options)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("hello")
    done = cimc("compile", tmp_path / "m.onnx", "-o", tmp_path / "m.cim")
    assert done.code == 2
    assert "m.onnx" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "m.cim").exists()


def test_a_folder_that_is_not_there_is_failed_work(made: Path, tmp_path: Path) -> None:
    done = cimc("compile", made / "small.onnx", "-o", tmp_path / "no" / "m.cim")
    assert done.code == 1
    assert "cannot write" in done.err
