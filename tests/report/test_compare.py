"""Differences and accuracies, against what numpy and ONNX Runtime say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cimc.compiler import compile_model
from cimc.errors import DataError
from cimc.ir.program import Preprocessing
from cimc.report.compare import compare_layers, compare_outputs, reference_values, sqnr_db
from cimc.report.estimate import estimate
from cimc.report.evaluate import evaluate, preprocess
from cimc.runtime.chip import Chip

EXAMPLES = Path(__file__).parents[2] / "examples"
LENET = EXAMPLES / "lenet_mnist" / "lenet.onnx"


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(EXAMPLES / "data" / "mnist.npz") as data:
        return data["x_test"][:300, None].astype(np.float32) / 255, data["y_test"][:300].astype(np.int64)


def test_sqnr_of_a_known_ratio() -> None:
    """Noise of a tenth of the amplitude is a hundredth of the power: 20 dB."""
    signal = np.array([3.0, -4.0])
    assert sqnr_db(signal, signal * 1.1) == pytest.approx(20)
    assert sqnr_db(signal, signal) is None
    assert sqnr_db(np.zeros(2), signal) is None


def test_an_ideal_chip_differs_by_rounding_alone(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    x = digits[0][:20]
    rows = compare_layers(Chip(compile_model(LENET, "ideal").need_program()), LENET, {"input": x})
    assert {row.layer for row in rows} == {"conv1", "conv2", "fc"}
    assert all(row.own_sqnr_db is None or row.own_sqnr_db > 110 for row in rows)  # float32 has 24 bits: 144 dB


def test_read_noise_gives_the_sqnr_of_its_closed_form(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    """With read noise alone, the error of an output has the variance (w_max/window)^2 * 2 sigma^2 * sum x^2."""
    x = digits[0]
    settings = {
        "adc.bits": None, "adc.range_ua": None, "weights.rounded": False, "dac.bits": 16,
        "device.programming.sigma_us": 0.0, "device.programming.mean_us": 0.0, "device.read_sigma_us": 2.0,
    }  # fmt: skip
    program = compile_model(LENET, "bulk-rram", settings=settings, calibration={"input": x}).need_program()
    found = {row.layer: row for row in compare_layers(Chip(program), LENET, {"input": x})}
    device = program.target.device
    w_max = float(program.tensors["weight_max/conv1"][0])
    windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (5, 5), axis=(1, 2))
    noise = (
        (w_max / (device.g_max_us - device.g_min_us)) ** 2 * 2 * 2.0**2 * float(np.square(windows, dtype=np.float64).sum()) * 4
    )
    signal = float(np.square(reference_values(LENET, {"input": x}, ("conv1_out",))["conv1_out"], dtype=np.float64).sum())
    # 691,200 outputs: the relative standard error of a variance is sqrt(2 / n) = 0.2 %, or 0.01 dB; five of these
    assert found["conv1"].own_sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.05)
    assert list(found) == [row.layer for row in sorted(found.values(), key=lambda row: row.own_sqnr_db or np.inf)]


def test_reference_values_are_onnx_runtimes(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    x = digits[0][:5]
    expected = ort.InferenceSession(str(LENET)).run(None, {"input": x})[0]
    values = reference_values(LENET, {"input": x}, ("pool1_out", "no such value"))
    np.testing.assert_allclose(values["logits"], expected, rtol=1e-5, atol=1e-5)
    assert values["pool1_out"].shape == (5, 4, 12, 12)
    assert "no such value" not in values
    with pytest.raises(DataError, match="ONNX Runtime"):
        reference_values(LENET, {"input": x[:, :, 1:]})


DROPPED = """<ir_version: 8, opset_import: ["": 17]> dropped (float[N, 64] x) => (float[N, 64] y) {
    r = Constant <value_float = 0.5> ()  t = Constant <value = bool {1}> ()  d = Dropout (x, r, t)
    u = RandomUniformLike (d)  y = Add (d, u)
}"""


def test_the_reference_of_a_random_model_repeats() -> None:
    """Each `Reference` has a generator of its own, as each process has."""
    x = {"x": np.ones((8, 64), np.float32)}
    found = [reference_values(onnx.parser.parse_model(DROPPED), x)["y"] for _ in range(2)]
    assert found[0].tobytes() == found[1].tobytes()
    assert len(np.unique(found[0])) > 100


SCALED = """<ir_version: 8, opset_import: ["": 17]> scaled (float[N, 4] x, float s) => (float[N, 3] y) {
    h = MatMul (x, w)  y = Mul (h, s)
}"""


def test_the_value_of_a_bound_input_may_be_given_too() -> None:
    """As `Chip.run` takes it."""
    model = onnx.parser.parse_model(SCALED)
    random = np.random.default_rng(5)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(4, 3)).astype(np.float32), "w"))
    program = compile_model(model, "ideal", bind={"s": 2.0}).need_program()
    x, s = random.normal(size=(5, 4)).astype(np.float32), np.array(2, np.float32)
    chip = Chip(program)
    alone, both = {"x": x}, {"x": x, "s": s}
    assert chip.run(both)["y"].tobytes() == chip.run(alone)["y"].tobytes()
    expected = ort.InferenceSession(model.SerializeToString()).run(None, both)[0]
    np.testing.assert_allclose(reference_values(model, both, program=program)["y"], expected, rtol=1e-5)
    assert compare_layers(chip, model, both) == compare_layers(chip, model, alone) != []
    for call in (lambda: compare_layers(chip, model, {**both, "s": s + 1}), lambda: chip.run({**both, "s": s + 1})):
        with pytest.raises(DataError, match="compiled with another value of s"):
            call()


def test_outputs_that_are_no_numbers_are_left_out() -> None:
    rows = compare_outputs({"a": np.ones(2), "b": ["x"], "c": None}, {"a": np.array([1.0, 3.0]), "b": ["x"], "c": None})
    assert [(row.name, row.largest_error) for row in rows] == [("a", 2.0)]


def test_accuracy_of_the_ideal_chip_is_onnx_runtimes(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    x, y = digits
    expected = float((ort.InferenceSession(str(LENET)).run(None, {"input": x})[0].argmax(1) == y).mean())
    seen: list[int] = []
    said: list[str] = []
    program = compile_model(LENET, "ideal").need_program()
    found = evaluate(program, x, y, batch=128, advance=seen.append, live=said.append)
    assert (found.accuracy, found.reference_accuracy, found.agreement, found.images) == (expected, expected, 1.0, 300)
    assert seen == [128, 128, 44]
    assert said[2:] == [f"accuracy {expected:.4g}"]


def test_preprocessing_reaches_chip_and_reference_alike(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    x, y = digits
    how = Preprocessing(scale=1 / 255, mean=(0.0,), std=(1.0,))
    program = compile_model(LENET, "ideal", preprocessing=how).need_program()
    found = evaluate(program, x * np.float32(255), y)
    assert found.accuracy == found.reference_accuracy > 0.95


def test_preprocessing_is_a_channel_each() -> None:
    x = np.ones((2, 3, 4, 4), np.float32)
    found = preprocess(x, Preprocessing(scale=0.5, mean=(0.0, 0.25, 0.5), std=(1.0, 0.5, 0.25)))
    np.testing.assert_array_equal(found[0, :, 0, 0], [0.5, 0.5, 0.0])


def test_labels_beyond_the_classes_are_refused(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    program = compile_model(LENET, "ideal").need_program()
    with pytest.raises(DataError, match="label 10, but the model has 10 classes"):
        evaluate(program, digits[0][:4], np.array([1, 2, 3, 10]))


def test_an_estimate_grows_with_the_images(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    program = compile_model(LENET, "bulk-rram", calibration={"input": digits[0]}).need_program()
    few, many = estimate(program, 100), estimate(program, 1_000_000)
    assert few.seconds is not None
    assert many.seconds is not None
    assert 0 < few.seconds < many.seconds / 100
    assert few.memory_bytes == many.memory_bytes > 6440 * 8
