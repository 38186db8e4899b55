"""Training of layers whose weights lie on several devices each, and whose inputs are read several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import cimc
from cimc.compiler import compile as compile_program
from cimc.ir.verify import verify
from cimc.runtime.chip import Chip
from cimc.training.checkpoint import read_checkpoint
from cimc.training.step import Step, training_program

from .networks import NETWORKS
from .small import NORMED, TEXT, data, model, trainer
from .test_checkpoint import Stop, StopError, contents
from .test_step import in_double

EVERY = {"*": {"rows": 2, "columns": 3, "reads": 2}}
CELLS = 2 * 3
PLACES: dict[str, Any] = {"*": {"rows": 2, "columns": 2}}
PULSES = {"device.pulse.up_us": 0.4, "device.pulse.down_us": 0.4}


def made(target: str, repeats: Any = EVERY, text: str = TEXT, seed: int = 0, **settings: Any) -> Chip:
    given = {"x": data(32)[0]}
    return Chip(compile_program(model(text), target, calibration=given, settings=settings or None, repeats=repeats), seed)


def repeated(array: NDArray[Any], layer: Any) -> NDArray[Any]:
    """``[groups, rows, planes, columns]`` of all devices as ``[places, groups, rows, planes, columns]`` of each weight's."""
    rows, columns = layer.repeats.rows, layer.repeats.columns
    parts = [part for half in np.split(array, rows, axis=1) for part in np.split(half, columns, axis=3)]
    return np.stack(parts)


@pytest.mark.parametrize("mode", ["digital", "analog"])
@pytest.mark.parametrize("name", ["convolutions", "transposed", "mlp"])
def test_gradients_are_finite_differences(name: str, mode: Literal["digital", "analog"]) -> None:
    network = NETWORKS[name]
    settings = {**network.settings, "array.transposed": {}}
    program = compile_program(network.model(), "ideal", settings=settings, repeats=EVERY)
    step = Step(training_program(program, loss=network.loss, backward=mode), Chip(program))
    inputs, labels = network.batch()
    result, loss = step.run(inputs, labels), in_double(network)
    rng, h = np.random.default_rng(5), 1e-5
    assert {layer.weight.tensor for layer in program.layers} <= result.gradients.keys()
    for weight, gradient in result.gradients.items():
        direction = rng.standard_normal(gradient.shape)
        numeric = (loss({weight: h * direction}) - loss({weight: -h * direction})) / (2 * h)
        bound = 2e-5 * float(np.abs(gradient * direction).sum() + 1e-2)
        assert abs(float((gradient * direction).sum()) - numeric) < bound, weight


@pytest.mark.parametrize("options", [{}, {"backward": "analog"}, {"learn_scales": "column"}], ids=["digital", "analog", "scales"])
def test_on_the_ideal_chip_the_weights_are_those_of_a_chip_without_repeats(options: dict[str, Any]) -> None:
    """Within 1e-4 after 30 steps of single precision, whose sums are in another order."""
    x, y = data()
    chips = [made("ideal", repeats, NORMED, **{"array.transposed.dac_bits": None}) for repeats in (EVERY, None)]
    trainers = [trainer(chip, optimizer="momentum", **options) for chip in chips]
    for t in trainers:
        t.fit(x, y, epochs=5, steps_per_epoch=6)
    one, other = (t.weights() for t in trainers)
    moved = np.abs(one["w2"] - cimc.compile(model(NORMED), "ideal").initializers()["w2"]).max()
    assert moved > 0.01
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-4)
    outputs = [chip.run({"x": x})["y"] for chip in chips]
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("init", ["weights", "devices"])
def test_all_repeats_of_a_weight_are_written_to_its_goal(init: Any) -> None:
    """Their errors have the deviation of the target's direct writes and nothing in common.

    600 and more devices tell a deviation to 3 %, a correlation to 4 %.
    """
    sigma_us = 2.0
    chip = made("bulk-rram-256", PLACES, **{"device.programming.sigma_us": sigma_us})
    t = trainer(chip, init=init, threshold=0.01, update="threshold")
    x, y = data()
    t.fit(x, y, epochs=4)
    layer = chip.program.layer(next(iter(n for n in chip.crossbars if chip.program.layer(n).weight.tensor == "w2")))
    memory = chip.memory
    writes = repeated(memory[f"{layer.name}/writes"], layer)
    assert (writes == writes[0]).all()
    assert writes.max() > 1
    goals = memory[f"{layer.name}/written_us"]
    trained = np.isfinite(goals) & (writes[0] > 0)
    errors = repeated(chip.conductances(layer.name), layer)[:, trained] - goals[trained]
    window = chip.program.target.device
    free = (goals[trained] > window.g_min_us + 3 * sigma_us) & (goals[trained] < window.g_max_us - 3 * sigma_us)
    errors = errors[:, free].astype(np.float64)
    assert errors.size > 150
    bound = 4 / np.sqrt(2 * errors.size)
    assert errors.std() == pytest.approx(sigma_us, rel=bound)
    assert abs(np.corrcoef(errors)[np.triu_indices(4, 1)].mean()) < 4 / np.sqrt(errors.size)


def test_counts_are_those_of_all_devices() -> None:
    chip = made("bulk-rram-256", EVERY, **{"timing.tile_op_ns": 10.0, "timing.tile_op_energy_nj": 1.0})
    t = trainer(chip, threshold=0.01)
    x, y = data()
    history = t.fit(x, y, epochs=2)
    cost = t.cost()
    written = sum(int(chip.memory[f"{name}/writes"].sum()) for name in chip.crossbars)
    updated = sum(int(chip.memory[f"{name}/updates"].sum()) for name in chip.crossbars)
    assert cost["writes"]["device_writes"] == written > 0
    assert cost["writes"]["weight_updates"] == updated
    assert written % CELLS == 0
    assert updated * CELLS <= written <= updated * CELLS * 2
    devices = sum(chip.conductances(name).size for name in chip.crossbars)
    assert history.last["device_writes_per_device"] == pytest.approx(written / devices)


def test_reads_are_those_that_the_chip_counts() -> None:
    chip = made("bulk-rram-256", EVERY)
    t = trainer(chip)
    x, y = data(16)
    t.step(x, y)
    before = {name: counts["tile_reads"] for name, counts in chip.stats().items()}
    tile_ops = t.cost()["tile_ops"]["forward"]
    t.step(x, y)
    reads = sum(counts["tile_reads"] - before[name] for name, counts in chip.stats().items())
    assert t.cost()["tile_ops"]["forward"] - tile_ops == reads == 16 * t.program().cost().tile_ops  # type: ignore[operator]


@pytest.mark.parametrize("update", ["residual", "naive"])
def test_a_weight_is_read_back_as_the_mean_of_its_repeats(update: str) -> None:
    """Without read noise, and without rounding to levels, W is exactly that."""
    quiet = {"device.read_sigma_us": 0.0, "device.levels": None, "weights.bits": None, **PULSES}
    chip = made("bulk-rram-256", PLACES, **quiet)
    t = trainer(chip, update=update, optimizer="sgd", lr=0.2, **({"limit": 0.02} if update == "residual" else {}))
    x, y = data()
    t.fit(x, y, epochs=2)
    for name, crossbar in chip.crossbars.items():
        layer = chip.program.layer(name)
        updated = chip.memory[f"{name}/updates"] > 0
        assert updated.any()
        span = np.abs(chip.memory[f"{name}/w_max"]).max()
        held = np.clip(layer.repeats.averaged(crossbar.held_weights()), -span, span)
        np.testing.assert_allclose(chip.memory[f"{name}/weights"][updated], held[updated], rtol=0, atol=1e-4 * span)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    x, y = data(80)
    runs = [trainer(made("bulk-rram-256", EVERY, NORMED), lr=0.02, callbacks=own) for own in ([], [Stop(7)], [])]
    runs[0].fit(x, y, epochs=3)
    with pytest.raises(StopError):
        runs[1].fit(x, y, epochs=3, checkpoint=tmp_path, checkpoint_steps=2)
    runs[2].fit(x, y, epochs=3, checkpoint=tmp_path, checkpoint_steps=2, resume=True)
    assert contents(runs[2]) == contents(runs[0])


@pytest.mark.parametrize("others", [{"*": {"reads": 3}}, {"*": {"rows": 2}}, None], ids=["reads", "rows", "none"])
def test_a_run_with_other_repeats_does_not_go_on(others: Any, tmp_path: Path) -> None:
    """Those of reads change noise and time, and no array of a checkpoint shows them."""
    x, y = data(48)
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path, "checkpoint_steps": 1}
    with pytest.raises(StopError):
        trainer(made("bulk-rram-256", {"*": {"reads": 2}}), callbacks=[Stop(2)]).fit(x, y, **options)
    t = trainer(made("bulk-rram-256", others))
    with pytest.raises(cimc.ArtifactError, match=r"made with repeats .*reads"):
        t.fit(x, y, resume=True, **options)


def test_a_run_without_repeats_has_the_settings_of_earlier_versions(tmp_path: Path) -> None:
    x, y = data(16)
    trainer(made("bulk-rram-256", None)).fit(x, y, epochs=1, checkpoint=tmp_path)
    assert "repeats" not in read_checkpoint(tmp_path).record["settings"]


def test_a_trained_program_goes_on_and_is_exported(tmp_path: Path) -> None:
    x, y = data()
    t = trainer(made("bulk-rram-256", EVERY), lr=0.02)
    t.fit(x, y, epochs=3)
    assert {row["name"] for row in t.plan() if row["trains"]} >= {"w1", "w2"}
    program = t.program()
    verify(program)
    program.save(tmp_path / "m.cim")
    chip = Chip(cimc.load(tmp_path / "m.cim"))
    np.testing.assert_array_equal(chip.run({"x": x}, 0)["y"], t.chip.run({"x": x}, 0)["y"])
    again = trainer(chip)
    for name, weights in t.weights().items():
        np.testing.assert_array_equal(again.weights()[name], weights)
    assert again.evaluate(x, y)["accuracy"] > 0.9
    again.fit(x, y, epochs=1)
    wanted = cimc.Chip(cimc.compile(program.to_onnx(), "ideal")).run({"x": x})["y"]
    for source in ("target", "readback"):
        image = cimc.export_image(t.chip, source=source)
        die = image.program(seed=3)
        found = die.run({"x": x})["y"]
        assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9, source


@pytest.mark.parametrize("kind", ["pulsed", "tiki_taka", "ttv2", "residual_arrays"])
def test_rules_that_change_single_cells_are_refused(kind: str) -> None:
    chip = made("bulk-rram-256", PLACES, **{"update.rule": kind, **PULSES})
    said = r"(?s)each of its weights lies on 4 places.*for threshold, residual or naive updates"
    with pytest.raises(cimc.CimcError, match=said):
        trainer(chip)


def test_repeated_reads_alone_train_by_any_rule() -> None:
    chip = made("bulk-rram-256", {"*": {"reads": 3}}, **{"update.rule": "pulsed", **PULSES})
    t = trainer(chip, optimizer="sgd")
    x, y = data(16)
    t.step(x, y)
    assert t.cost()["writes"]["device_writes"] > 0
