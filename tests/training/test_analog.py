"""Training with the backward pass on the array: gradients by finite differences, rules, costs, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.compiler import compile as compile_program
from cimc.runtime.chip import Chip
from cimc.training.step import Step, training_program
from tests.cli.conftest import cimc as command
from tests.cli.conftest import small_model

from .networks import NETWORKS
from .small import NORMED, chip, data, trainer
from .test_checkpoint import Stop, StopError, contents
from .test_step import in_double

LENET = Path(__file__).parents[2] / "examples" / "lenet_mnist" / "lenet_init.onnx"
READ: dict[str, Any] = {"array.transposed.dac_bits": 8}


@pytest.mark.parametrize("exact", [True, False], ids=["ideal", "converterless"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_through_the_array_are_finite_differences(name: str, exact: bool) -> None:
    network = NETWORKS[name]
    settings = {**network.settings, "array.transposed": {}} | ({} if exact else {"weights.clip_sigma": 8})
    program = compile_program(network.model(), "ideal", settings=settings)
    assert program.target.is_ideal == exact
    training = training_program(program, loss=network.loss, backward="analog")
    step = Step(training, Chip(program))
    # What the digital unit holds is not asked.
    for layer, weights in step.weights.items():
        step.weights[layer] = np.full_like(weights, np.nan)
    inputs, labels = network.batch()
    result, loss = step.run(inputs, labels), in_double(network)
    rng, h = np.random.default_rng(5), 1e-5
    for weight, gradient in result.gradients.items():
        direction = rng.standard_normal(gradient.shape)
        numeric = (loss({weight: h * direction}) - loss({weight: -h * direction})) / (2 * h)
        bound = 2e-5 * float(np.abs(gradient * direction).sum() + 1e-2)
        assert abs(float((gradient * direction).sum()) - numeric) < bound, weight


def test_on_the_ideal_chip_training_is_that_of_the_digital_backward_pass() -> None:
    x, y = data(64)
    runs = []
    for backward in ("digital", "analog"):
        t = trainer(chip("ideal", **{"array.transposed": {}}), backward=backward)
        losses = [t.step(x[n : n + 16], y[n : n + 16]) for n in range(0, 64, 16)]
        runs.append((losses, t.weights()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    for name, values in runs[0][1].items():
        np.testing.assert_allclose(runs[1][1][name], values, atol=1e-4)


@pytest.mark.parametrize("update", ["threshold", "residual", "naive"])
def test_every_rule_trains_on_gradients_of_the_array(update: Any) -> None:
    x, y = data(192)
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 2.0} if update == "naive" else {"lr": 0.02}
    t = trainer(chip(**READ), backward="analog", update=update, init="devices", **options)
    before = t.evaluate(x, y)["loss"]
    history = t.fit(x, y, epochs=6, validation=(x, y))
    assert history.last["total"]["updates"] > 0
    if update != "naive":  # the baseline that fails
        assert history.last["validation_loss"] < 0.7 * before
        assert history.last["validation_accuracy"] > 0.9


def test_a_clipped_gradient_is_zero_where_the_dac_saturates() -> None:
    x, y = data(32)
    found = {}
    for ste in ("pass", "clipped"):
        for backward in ("digital", "analog"):
            settings = {"dac.clip_share": 0.3, "device.read_sigma_us": 0.0, "device.programming.sigma_us": 0.0}
            settings |= {"device.programming.mean_us": 0.0, "array.transposed.dac_bits": 12, "array.transposed.adc_bits": 14}
            t = trainer(chip(**settings), backward=backward, ste=ste, init="weights")
            found[ste, backward] = t.gradients(x, y)["w1"].ravel()
    for ste in ("pass", "clipped"):
        assert np.corrcoef(found[ste, "digital"], found[ste, "analog"])[0, 1] > 0.999
    assert np.corrcoef(found["pass", "analog"], found["clipped", "analog"])[0, 1] < 0.999


# Cost -----------------------------------------------------------------------------------------------------------------


def after_a_step(images: int, **settings: Any) -> cimc.Trainer:
    """LeNet, one step on so many images."""
    program = compile_program(LENET, "bulk-rram", settings={**READ, **settings})
    t = cimc.Trainer(cimc.Chip(program), backward="analog", batch_size=images)
    x = np.random.default_rng(0).random((images, 1, 28, 28), np.float32)
    t.step(x, np.arange(images) % 10)
    return t


def test_cost_of_lenets_backward_pass_by_hand() -> None:
    cost = after_a_step(4).cost()
    # conv2: 8 x 8 positions on two row slices; the dense layer: one on three; two phases each. conv1's input wants no gradient.
    ops, tile_ops = 2 * (64 + 1), 2 * (64 * 2 + 3)
    assert cost["tile_ops"] == {"forward": 4 * 707, "backward": 4 * tile_ops, "transfer": 0}
    assert cost["latency_ms"]["analog"] == pytest.approx(4 * (641 + ops) * 720e-6)
    assert cost["energy_mj"]["analog"] == pytest.approx(4 * (707 + tile_ops) * 2.66e-6)
    # What is left for the digital unit: the outer products.
    assert cost["digital_macs"] == 4 * (576 * 25 * 4 + 64 * 100 * 12 + 192 * 10)


def test_a_transposed_read_may_have_its_own_time_and_energy() -> None:
    own = {"array.transposed.tile_op_ns": 1000.0, "array.transposed.tile_op_energy_nj": 5.0}
    cost = after_a_step(1, **own).cost()
    assert cost["latency_ms"]["analog"] == pytest.approx(641 * 720e-6 + 130 * 1000e-6)
    assert cost["energy_mj"]["analog"] == pytest.approx(707 * 2.66e-6 + 262 * 5e-6)
    cost = after_a_step(1, **{"timing.tile_op_ns": None}).cost()
    assert cost["latency_ms"]["analog"] is None


def test_reads_are_counted_apart_and_their_saturation_moves_no_range() -> None:
    x, y = data(64)
    # In so wide a window the forward reads outgrow no range by themselves.
    unclipped = {"weights.window": "largest", "weights.scale": "layer"}
    made = chip(**READ, **unclipped, **{"array.transposed.sigma_lsb": 150.0})
    t = trainer(made, backward="analog", init="weights", window=3.0)
    history = t.fit(x, y, epochs=2)
    reads = t.chip.stats()["Gemm_0"]
    # Each image's dense product has one vector, on one tile of 64 word lines; so has each image of a calibration, if it asks.
    assert reads["transposed_reads"] >= 2 * 2 * 64
    assert reads["transposed_conversions"] == 64 * reads["transposed_reads"]
    assert history.last["total"]["backward_conversions"] == 2 * 2 * 64 * 64
    assert history.last["backward_saturation_share"] > 0.01
    assert history.cost["tile_ops"]["backward"] == 2 * 2 * 64
    assert history["recalibrations"] == [0, 0]
    assert t.chip.stats()["Conv_0"]["transposed_reads"] == 0


# Resuming, command line -----------------------------------------------------------------------------------------------


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    x, y = data(80)
    options: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 2}

    def make(**more: Any) -> cimc.Trainer:
        return trainer(chip(text=NORMED, **READ), lr=0.02, backward="analog", **more)

    whole = make()
    whole.fit(x, y, checkpoint=tmp_path / "whole", **options)
    with pytest.raises(StopError):
        make(callbacks=[Stop(7)]).fit(x, y, checkpoint=tmp_path / "cut", **options)
    resumed = make()
    history = resumed.fit(x, y, checkpoint=tmp_path / "cut", resume=True, **options)
    assert contents(resumed) == contents(whole)
    assert history.cost == whole.cost()
    assert history.last["total"]["backward_conversions"] > 0


def test_the_command_line_refuses_trains_and_counts(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(small_model(np.random.default_rng(5)).SerializeToString())
    x, y = data(64)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    arguments = ("train", tmp_path / "small.onnx", "--data", tmp_path / "data.npz", "--epochs", 1, "--batch", 16)
    arguments += ("--backward", "analog", "-o", tmp_path / "trained.cim")
    refused = command(*arguments)
    assert refused.code == 2
    assert "no transposed read" in refused.err
    assert "array.transposed={}" in refused.err
    for setting in ("array.transposed={}", "array.transposed.dac_bits=8"):
        done = command(*arguments, "--set", setting, "--json")
        assert done.code == 0, done.err
        assert done.json["cost"]["tile_ops"]["backward"] == 2 * 64
    assert command("evaluate", tmp_path / "trained.cim", "--data", tmp_path / "data.npz").code == 0
