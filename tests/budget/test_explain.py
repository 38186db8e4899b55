"""The budget of a chip: parts add up, causes and faults are found where they are, and bad input is told in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import cimc
from cimc.budget.explain import most_runs
from cimc.cli.app import app
from tests.budget.models import CLASSES, HIDDEN, INPUTS, data, model, program, weights

X = data(128)
Y = np.argmax(np.maximum(X @ weights()["w1"] + weights()["b1"], 0) @ weights()["w2"], axis=1)
BULK: dict[str, Any] = {"device__programming__sigma_us": 6.0, "weights__clip_sigma": 1.5}


def test_parts_add_up_and_what_they_leave_is_stated() -> None:
    runs: list[int] = []
    made = program("bulk-rram", **BULK)
    found = cimc.explain(made, X, Y, samples=96, advance=runs.append)
    assert sum(runs) <= most_runs(made)
    t = found.total
    assert (t.images, t.reference_accuracy, t.exact_accuracy) == (96, 1.0, 1.0)
    assert t.accuracy_lost == pytest.approx(1 - t.accuracy)
    # The standard error of a share of n labels, each lost or not.
    assert t.standard_error == pytest.approx(np.sqrt(t.accuracy * t.accuracy_lost / 95))
    for parts, rest in ((found.causes, found.interaction), (found.rows, found.interaction_of_rows)):
        assert sum(part.error_share for part in parts) + rest.error_share == pytest.approx(1)
        assert sum(part.accuracy_lost or 0 for part in parts) + rest.accuracy_lost == pytest.approx(t.accuracy_lost)
    assert abs(found.interaction.error_share) < 0.1
    assert [part.error_share for part in found.rows] == sorted((part.error_share for part in found.rows), reverse=True)
    assert {"programming error", "weight clipping", "read noise"} <= {part.cause for part in found.causes}
    assert {part.layer for part in found.rows} == {"fc1", "fc2"}


def test_the_total_is_the_chips_own() -> None:
    made = program("bulk-rram", **BULK)
    found = cimc.explain(made, X, Y, seed=4, samples=64)
    chosen = np.arange(64) * len(X) // 64
    outputs = cimc.Chip(made, 4).run({"x": X[chosen]}, 0)["y"]
    exact = np.maximum(X[chosen] @ weights()["w1"] + weights()["b1"], 0) @ weights()["w2"]
    power = np.square(exact.astype(np.float64)).sum() / np.square(outputs.astype(np.float64) - exact).sum()
    assert found.total.sqnr_db == pytest.approx(10 * np.log10(power), abs=1e-3)
    assert found.total.accuracy == (outputs.argmax(1) == Y[chosen]).mean()


@pytest.mark.parametrize(
    ("cause", "settings"),
    [
        ("programming error", {"device__programming__sigma_us": 0.1}),
        ("read noise", {"device__read_sigma_us": 0.02}),
        ("weight clipping", {"weights__clip_sigma": 1.5}),
        ("weight rounding", {"device__levels": 8, "weights__rounded": True}),
        ("DAC step", {"dac__bits": 4}),
        ("ADC step", {"adc__bits": 6}),
        ("faults", {"device__stuck_low_rate": 0.05}),
        ("IR drop", {"array__wires__row_segment_ohm": 500.0}),
    ],
)
def test_one_cause_alone_is_the_only_row(cause: str, settings: dict[str, Any]) -> None:
    made = program(**settings)
    found = cimc.explain(made, X, Y, samples=64)
    assert {part.cause for part in found.rows} == {cause}
    (whole,) = found.causes
    assert whole.sqnr_db == pytest.approx(found.total.sqnr_db, abs=1e-2)
    assert whole.sqnr_db_without is None or whole.sqnr_db_without > 100
    assert whole.error_share == pytest.approx(1, abs=1e-3)
    assert whole.accuracy_lost == found.total.accuracy_lost
    assert found.interaction.error_share == pytest.approx(0, abs=1e-3)


def test_an_exact_chip_has_no_rows() -> None:
    found = cimc.explain(program(), X, Y)
    assert (found.rows, found.causes, found.levers) == ([], [], [])
    assert found.total.accuracy_lost == 0


@pytest.mark.parametrize("factor", [0.3, 0.6, 1.6])
def test_a_scale_that_does_not_fit_the_devices_is_named(factor: float) -> None:
    chip = cimc.Chip(program("bulk-rram", device__programming__sigma_us=0.5, device__read_sigma_us=0.2), 1)
    trained = chip.trained_program()
    tensors = {**trained.tensors, "weight_max/fc2": trained.tensors["weight_max/fc2"] * np.float32(factor)}
    found = cimc.explain(trained.model_copy(update={"tensors": tensors}), X, Y)
    assert (found.rows[0].layer, found.rows[0].cause) == ("fc2", "scale")
    assert [part.layer for part in found.rows if part.cause == "scale"] == ["fc2"]
    (fault,) = (lever for lever in found.levers if lever.kind == "program")
    assert fault.layer == "fc2"
    note = next(text for text in found.notes if "fc2" in text)
    assert float(note.split("count ")[1].split()[0]) == pytest.approx(factor, rel=0.05)
    assert "scale" not in {part.cause for part in cimc.explain(trained, X, Y).rows}


def normalised() -> onnx.ModelProto:
    random = np.random.default_rng(3)
    norm = {name: random.uniform(0.5, 1.5, HIDDEN) for name in ("s", "b", "m", "v")}
    body = "h = MatMul (x, w1)  n = BatchNormalization (h, s, b, m, v)  r = Relu (n)  y = MatMul (r, w2)"
    return model(body, weights() | norm)


@pytest.mark.parametrize("target", ["ideal", "bulk-rram-256"])
def test_a_digital_scale_that_is_not_the_models_is_named(target: str) -> None:
    made = cimc.compile(normalised(), target=target, calibration={"x": X})
    step = made.vmm_steps[0]
    tensors = {**made.tensors, f"scale/{step.name}": made.tensors[f"scale/{step.name}"] * 1.5}
    found = cimc.explain(made.model_copy(update={"tensors": tensors}), X, None, normalised())
    assert (found.rows[0].layer, found.rows[0].cause) == (step.layer, "scale")
    assert {part.layer for part in found.rows if part.cause == "scale"} == {step.layer}
    assert any("1.5 times" in text for text in found.notes)
    assert found.total.exact_sqnr_db is None or found.total.exact_sqnr_db > 80
    assert "scale" not in {part.cause for part in cimc.explain(made, X, None, normalised()).rows}


def test_a_chip_that_has_aged_drifts_and_stays_as_it_is() -> None:
    chip = cimc.Chip(program("hermes-pcm"), 1)
    assert "drift" not in {part.cause for part in cimc.explain(chip, X, Y).causes}
    chip.advance(3e7)
    before = chip.run({"x": X}, 0)["y"]
    found = cimc.explain(chip, X, Y)
    drift = next(part for part in found.causes if part.cause == "drift")
    assert drift.sqnr_db is not None
    assert drift.error_share > 0.1
    assert drift.sqnr_db_without > found.total.sqnr_db
    np.testing.assert_array_equal(chip.run({"x": X}, 0)["y"], before)


def test_a_trained_chip_and_its_fit() -> None:
    chip = cimc.Chip(program("bulk-rram", **BULK), 2)
    cimc.Trainer(chip, batch_size=32, init="weights", lr=1e-3).fit(X, Y, epochs=1)
    in_memory = cimc.explain(chip, X, Y)
    trained = chip.trained_program()
    found = cimc.explain(trained, X, Y, seed=2)
    assert (found.total, found.rows) == (in_memory.total, in_memory.rows)
    # Without errors it is the model of the trained weights.
    assert found.total.exact_sqnr_db is None or found.total.exact_sqnr_db > 100
    assert {"programming error", "read noise"} <= {part.cause for part in found.causes}
    assert not any(lever.kind == "setting" for lever in found.levers)
    chip.fit_outputs({"x": X})
    fitted = cimc.explain(chip, X, Y)
    assert fitted.total.sqnr_db > found.total.sqnr_db


def test_the_die_of_an_image() -> None:
    die = cimc.export_image(cimc.Chip(program("bulk-rram", **BULK), 0)).program(seed=5)
    found = cimc.explain(die, X, Y)
    assert found.rows[0].cause == "programming error"
    assert abs(found.interaction.error_share) < 0.1


def test_levers_bring_what_the_chip_then_has() -> None:
    """A halved programming error is that of a chip whose sigma is half, as its draws are the same."""
    found = cimc.explain(program(device__programming__sigma_us=0.1), X)
    (lever,) = (one for one in found.levers if one.kind == "chip")
    assert lever.what == "programming error halved: device.programming.sigma_us from 0.1 to 0.05"
    half = cimc.explain(program(device__programming__sigma_us=0.05), X)
    assert lever.brings == pytest.approx(half.total.sqnr_db - found.total.sqnr_db, abs=1.0)
    assert [one.brings for one in found.levers] == sorted((one.brings for one in found.levers), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no program", X, Y), "must be a program or a chip"),
        ((None, X[:, :5], Y), "but the model takes"),
        ((None, X, Y[:7]), "labels are"),
        ((None, X, Y.astype(np.float64)), "give a whole number a sample"),
        ((None, X, np.full(len(X), CLASSES)), f"label {CLASSES}, but the model has {CLASSES} classes"),
        ((None, X[:0], Y[:0]), "is empty"),
        ((None, {"z": X}, Y), "z"),
    ],
)
def test_bad_input_is_told_in_words(arguments: tuple[Any, ...], words: str) -> None:
    first, *others = arguments
    with pytest.raises(cimc.CimcError) as caught:
        cimc.explain(program() if first is None else first, *others)
    assert words in str(caught.value)


def test_samples_and_models_of_another_network_are_told() -> None:
    with pytest.raises(cimc.CimcError, match="samples"):
        cimc.explain(program(), X, Y, samples=0)
    other = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> m (float[N, {INPUTS}] q) => (float[N, {INPUTS}] z) {{ z = Relu (q) }}'
    )
    with pytest.raises(cimc.CimcError, match="another network"):
        cimc.explain(program(), X, Y, other)


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    program("bulk-rram", **BULK).save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    arguments = ["explain", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz"), "--samples", "32"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"sqnr_db", "accuracy"} <= set(found["total"])
    assert {"layer", "cause", "sqnr_db", "accuracy_lost"} <= set(found["rows"][0])
    assert {"what", "brings"} <= set(found["levers"][0])
    alone = cimc.explain(cimc.load(tmp_path / "m.cim"), tmp_path / "d.npz", samples=32)
    assert alone.to_dict() == {name: found[name] for name in alone.to_dict()}
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "programming error" in shown.stdout


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("DAC clipping", {"coding": {"gain": 4.0}}),
        ("ADC saturation", {"adc_range_ua": 0.25}),
        ("DAC step", {"coding": {"gain": 1 / 64}, "adc_range_ua": 1 / 64}),
        ("ADC step", {"adc_range_ua": 64.0}),
    ],
)
def test_a_wrong_range_of_one_layer_is_found_there(cause: str, change: dict[str, Any]) -> None:
    made = program("bulk-rram", device__programming__sigma_us=0.5, device__read_sigma_us=0.2)
    layer = made.layers[1]
    coding = layer.coding.model_copy(update={"gain": layer.coding.gain * change.get("coding", {}).get("gain", 1.0)})
    wrong = layer.model_copy(update={"coding": coding, "adc_range_ua": layer.adc_range_ua * change.get("adc_range_ua", 1.0)})
    found = cimc.explain(made.model_copy(update={"layers": (made.layers[0], wrong)}), X, Y)
    assert (found.rows[0].layer, found.rows[0].cause) == ("fc2", cause)
    assert any(lever.kind == "chip" or lever.layer == "fc2" for lever in found.levers)
