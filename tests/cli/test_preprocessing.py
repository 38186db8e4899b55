"""One rule for all commands: what scales uint8, when preprocessing applies, and what is said of data that do not fit the chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import cimc as package
from cimc.ir.program import Preprocessing

from .conftest import cimc, small_model

RANDOM = np.random.default_rng(5)
#: uint8 images 0 to 255; real numbers of the same size; real numbers 0 to 1.
DATA: dict[str, NDArray[Any]] = {"uint8": RANDOM.integers(0, 256, (24, 1, 6, 6)).astype(np.uint8)}
DATA["raw"] = DATA["uint8"].astype(np.float32)
DATA["unit"] = DATA["raw"] / np.float32(255)
SCALE = str(1 / 255)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(small_model(np.random.default_rng(1)), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def reference(model: Path, x: NDArray[np.float32]) -> NDArray[Any]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


#: Data, options, and what the model is to be given, of images 0 to 1.
CASES = [
    ("uint8", (), 0.0, 1.0),
    ("unit", (), 0.0, 1.0),
    ("uint8", ("--scale", SCALE), 0.0, 1.0),
    ("raw", ("--scale", SCALE), 0.0, 1.0),
    ("uint8", ("--mean", "0.5", "--std", "0.25"), 0.5, 0.25),
    ("unit", ("--mean", "0.5", "--std", "0.25"), 0.5, 0.25),
    ("uint8", ("--scale", SCALE, "--mean", "0.5", "--std", "0.25"), 0.5, 0.25),
    ("uint8", ("--scale", "1", "--mean", "127.5", "--std", "63.75"), 0.5, 0.25),
]


@pytest.mark.parametrize(("target", "calibrated"), [("ideal", False), ("isaac", False), ("isaac", True)])
@pytest.mark.parametrize(("name", "options", "mean", "std"), CASES)
def test_run_and_evaluate_give_the_model_what_the_rule_says(
    name: str, options: tuple[str, ...], mean: float, std: float, calibrated: bool, target: str, model: Path
) -> None:
    folder, data = model.parent, model.parent / "data.npz"
    expected = reference(model, ((DATA["unit"] - mean) / std).astype(np.float32))
    np.savez(data, x=DATA[name], y=expected.argmax(1))
    more = ("--calibration", data) if calibrated else ()
    assert cimc("compile", model, "--target", target, *options, *more, "-o", folder / "m.cim").code == 0
    done = cimc("run", folder / "m.cim", "--input", data, "--output", folder / "y.npz", "--json")
    assert done.code == 0, done.err
    found = next(iter(np.load(folder / "y.npz").values()))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if target == "ideal" else 0.05)
    evaluated = cimc("evaluate", folder / "m.cim", "--data", data, "--json")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["reference_accuracy"] == 1.0
    assert not evaluated.json["notes"]


def test_data_beyond_the_calibration_are_said_by_layer_with_a_remedy(model: Path) -> None:
    folder, data = model.parent, model.parent / "data.npz"
    np.savez(data, x=DATA["unit"])
    assert cimc("compile", model, "--target", "bulk-rram-256", "--calibration", data, "-o", folder / "m.cim").code == 0
    np.savez(data, x=DATA["raw"], y=np.zeros(24, np.int64))
    for arguments in (("run", "--input", data, "--output", folder / "y.npz"), ("evaluate", "--data", data)):
        done = cimc(arguments[0], folder / "m.cim", *arguments[1:], "--json")
        assert done.code == 0
        assert "layer conv: " in done.err
        assert "are clipped" in done.err
        assert "--calibration" in done.err
        assert any("layer conv" in text for text in done.json["notes"])


def test_training_prepares_data_by_the_same_rule(model: Path) -> None:
    """A step of rate 0 on uint8, with and without a stated scale: the same loss, that of the images of 0 to 1."""
    losses = []
    for how in (None, Preprocessing(scale=1 / 255)):
        program = package.compile(model, target="ideal", preprocessing=how)
        trainer = package.Trainer(package.Chip(program), optimizer="sgd", lr=0.0)
        losses.append(trainer.step(DATA["uint8"], np.arange(24) % 3))
    unit = package.Trainer(package.Chip(package.compile(model, target="ideal")), optimizer="sgd", lr=0.0)
    assert losses == pytest.approx([unit.step(DATA["unit"], np.arange(24) % 3)] * 2, rel=1e-5)


def test_preprocessing_of_several_inputs_is_refused(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] a, float[N, 4] b) => (float[N, 4] y) { y = Add (a, b) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "two.onnx")
    done = cimc("compile", tmp_path / "two.onnx", "--scale", "2", "-o", tmp_path / "two.cim")
    assert done.code == 2
    assert "one input" in done.err
