"""Update rules with arrays of their own: pulsed, Tiki-Taka, TTv2, residual learning over several arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.app import app
from cimc.errors import CimcError, TargetError
from cimc.runtime.draws import TRAINING
from cimc.targets.load import load_target
from cimc.threads import set_threads, threads
from cimc.training.history import Callback
from cimc.training.step import Step, training_program
from tests.training.small import chip, data, model, trainer

RULES = ["pulsed", "tiki_taka", "ttv2", "residual_arrays"]
ARRAYS = {"pulsed": 1, "tiki_taka": 2, "ttv2": 2, "residual_arrays": 3}
X, Y = data(64)
#: Exact reads and writes, continuous conductances in a window of 2 µS, pulses without noise.
EXACT = {
    "device.levels": None, "device.g_min_us": 0.0, "device.g_max_us": 2.0, "device.programming.mean_us": 0.0,
    "device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0, "device.pulse.cycle_spread": 0.0,
    "device.pulse.device_spread": 0.0, "adc.bits": None, "dac.bits": None, "device.born_us": None,
}  # fmt: skip
SGD: dict[str, Any] = {"optimizer": "sgd", "init": "weights", "schedule": "constant"}


def made(rule: str, **settings: Any) -> cimc.Chip:
    own = {"update.transfer_rows": 4} if rule != "pulsed" else {}
    return chip(**{"update.rule": rule, **own, **settings})


def linear(rows: int, columns: int, weights: np.ndarray, target: str, **settings: Any) -> cimc.Chip:
    """``y = x w`` on a chip."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> m (float[N, {rows}] x) => (float[N, {columns}] y) '
                                    "{ y = MatMul (x, w) }")  # fmt: skip
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(np.float32), "w"))
    calibration = {"x": np.random.default_rng(0).normal(size=(64, rows)).astype(np.float32)}
    return cimc.Chip(cimc.compile(proto, target=target, calibration=calibration, settings=settings or None), 0)


# What a step is -------------------------------------------------------------------------------------------------------


def test_one_update_is_that_of_sgd_in_mean_with_the_variance_of_the_trains() -> None:
    """1,536 weights on two arrays, each pulse a small part of the step: z-scores against the digital gradient."""
    rows, columns, images, lr, span = 48, 32, 32, 0.05, 10.0
    random = np.random.default_rng(3)
    w, x = random.normal(0, 0.2, (rows, columns)), random.normal(size=(images, rows)).astype(np.float32)
    y = random.normal(size=(images, columns)).astype(np.float32)
    pulses = {"device.pulse.up_us": 1e-4, "device.pulse.down_us": 1e-4}
    rule = {"update.rule": "residual_arrays", "update.arrays": 2, "update.gamma": 0.5, "update.transfer_every": 1000}
    c = linear(rows, columns, w, "bulk-rram", **EXACT, **pulses, **rule)
    t = cimc.Trainer(c, loss="mse", lr=lr, w_max=span, batch_size=images, **SGD)
    before = t.weights()["w"].copy()
    np.testing.assert_allclose(before, w, atol=1e-5)
    error = x @ before - y
    delta = 2 * error / error.size
    t.step(x, y)
    moved = t.weights()["w"] - before
    gradient = x.T @ delta
    np.testing.assert_allclose(t.gradients(x, y)["w"].shape, gradient.shape)
    step = span * 1e-4 * 0.5  # of W, by a pulse on the second array
    each = lr * np.abs(x[:, :, None] * delta[:, None, :]) / step
    chance = each / 31
    assert chance.max() < 1
    variance = step**2 * (31 * chance * (1 - chance)).sum(axis=0)
    z = (moved + lr * gradient) / np.sqrt(variance)
    # A device a little off the middle has slightly other steps: u of half the window changes them by u.
    assert abs(z.mean()) < 5 / np.sqrt(z.size) + 0.05
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size) + 0.03


def test_vectors_give_the_dense_gradient_of_every_kind_of_product() -> None:
    text = """m (float[N, 4, 6, 6] x) => (float[N, 3] y) {
        a = Conv <kernel_shape = [3, 2], group = 2, pads = [1, 0, 1, 1], strides = [2, 1]> (x, w1)
        b = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (a, w2)  c = Relu (b)  f = Flatten (c)  y = MatMul (f, w3)
    }"""
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    shapes = {"w1": (6, 2, 3, 2), "w2": (6, 2, 2, 2), "w3": (144, 3)}
    for name, shape in shapes.items():
        array = random.normal(0, 0.3, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    x, y = random.normal(size=(5, 4, 6, 6)).astype(np.float32), random.integers(0, 3, 5)
    c = cimc.Chip(cimc.compile(proto, target="bulk-rram", calibration={"x": x}), 0)
    step = Step(training_program(c.program), c)
    dense, vectors = step.run({"x": x}, y), step.run({"x": x}, y, vectors=True)
    assert dense.layers.keys() == vectors.vectors.keys()
    assert not vectors.layers
    for name, gradient in dense.layers.items():
        found = sum(part.gradient() for part in vectors.vectors[name])
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6 * np.abs(gradient).max() + 1e-9)
    assert TRAINING == ("training",)


# The bias of soft bounds, and what takes it off -----------------------------------------------------------------------


def fitted(rule: str, steps: int = 300, lr: float = 0.2, **settings: Any) -> tuple[np.ndarray, np.ndarray, cimc.Trainer]:
    """A noisy linear regression on asymmetric devices: mean W of the last steps, and the solution of least squares."""
    random = np.random.default_rng(7)
    x = random.normal(size=(512, 4)).astype(np.float32)
    best = np.array([[0.3, -0.3, 0.2], [-0.4, 0.1, 0.3], [0.2, -0.2, -0.1], [-0.1, 0.4, -0.3]])
    y = (x @ best + random.normal(0, 0.5, (512, 3))).astype(np.float32)
    solution = np.linalg.lstsq(x, y, rcond=None)[0]
    asymmetric = {"device.pulse.up_us": 0.02, "device.pulse.down_us": 0.01}
    c = linear(4, 3, np.zeros((4, 3)), "bulk-rram", **EXACT, **asymmetric, **{"update.rule": rule, **settings})
    t = cimc.Trainer(c, loss="mse", lr=lr, w_max=1.0, batch_size=8, **SGD)
    seen = []
    for step in range(steps):
        at = random.integers(0, 512, 8)
        t.step(x[at], y[at])
        if step >= steps // 2:
            seen.append(t.weights()["w"])
    return np.mean(seen, axis=0), solution, t


def test_pulsed_sgd_is_drawn_to_the_symmetry_point_and_tiki_taka_is_not() -> None:
    """Ups of 0.02 and downs of 0.01 µS are equal at a third of half the window; gradients stay noisy at the solution."""
    symmetry = 1 / 3
    plain, solution, _ = fitted("pulsed")
    pull = (plain - solution) / (symmetry - solution)
    zeroed = {"update.transfer_rows": 4, "update.transfer_lr": 0.05, "update.zero_shift_pulses": 800}
    for rule in ("tiki_taka", "ttv2"):
        taken, _, _ = fitted(rule, **zeroed)
        assert np.abs(taken - solution).mean() < np.abs(plain - solution).mean() / 2
    assert pull.mean() > 0.1
    assert np.corrcoef((plain - solution).ravel(), (symmetry - solution).ravel())[0, 1] > 0.8


def test_zero_shifting_puts_the_zero_of_an_array_at_the_symmetry_point() -> None:
    _, _, t = fitted("tiki_taka", steps=1, lr=1e-6, **{"update.zero_shift_pulses": 800})
    g_us = t.chip.conductances("MatMul_0")[0]
    symmetry_us = 1 + 1 / 3
    step = 0.02
    assert np.abs(g_us[:, 1] - symmetry_us).max() < step  # A's devices swing about it
    assert np.abs(g_us[:, 3] - g_us[:, 1]).max() < step / 4
    assert np.abs(g_us[:, 2] - 1).max() < 1e-6  # C's reference stays at the middle
    assert t.cost()["writes"]["device_writes"] >= 12 * (2 * 800 + 1)


# State ----------------------------------------------------------------------------------------------------------------


def bytes_of(t: cimc.Trainer) -> list[bytes]:
    held = [t.chip.conductances(name).tobytes() for name in t.chip.crossbars]
    return [*held, *(w.tobytes() for w in t.weights().values()), *(a.tobytes() for _, a in sorted(t.chip.memory.items()))]


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_ends_in_the_same_bytes(rule: str, tmp_path: Path) -> None:
    shift = {"update.zero_shift_pulses": 3} if rule != "pulsed" else {}
    whole = trainer(made(rule, **shift), lr=0.1, **SGD)
    whole.fit(X, Y, epochs=2, checkpoint=tmp_path / "whole")
    first = trainer(made(rule, **shift), lr=0.1, **SGD)
    with pytest.raises(KeyboardInterrupt):
        first.fit(X, Y, epochs=2, checkpoint=tmp_path / "run", checkpoint_steps=1, callbacks=[Stop(5)])
    second = trainer(made(rule, **shift), lr=0.1, **SGD)
    second.fit(X, Y, epochs=2, checkpoint=tmp_path / "run", resume=True)
    assert bytes_of(second) == bytes_of(whole)
    assert second.cost() == whole.cost()


class Stop(Callback):
    """Interrupts a run after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, _: Any, row: Any) -> None:
        if row["step"] == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("rule", ["tiki_taka", "residual_arrays"])
def test_a_saved_chip_goes_on_as_the_one_in_memory(rule: str, tmp_path: Path) -> None:
    one = trainer(made(rule), lr=0.1, **SGD)
    one.fit(X, Y, epochs=1)
    one.chip.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert again.run({"x": X}, 0)["y"].tobytes() == one.chip.run({"x": X}, 0)["y"].tobytes()
    options = {name: value for name, value in SGD.items() if name != "init"}
    found = []
    for c in (one.chip, again):
        t = trainer(c, lr=0.1, **options)
        t.fit(X, Y, epochs=1)
        found.append(bytes_of(t))
    assert found[0] == found[1]
    assert int(again.memory["Conv_0/rule.step"][0]) == 2 * (64 // 16)


def test_the_bytes_do_not_depend_on_the_threads() -> None:
    before, found = threads(), []
    try:
        for number in (1, 2):
            set_threads(number)
            t = trainer(made("ttv2"), lr=0.1, **SGD)
            t.fit(X, Y, epochs=1)
            found.append(bytes_of(t))
    finally:
        set_threads(before)
    assert found[0] == found[1]


# What counts the arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_placement_cost_and_wear_count_every_array(rule: str) -> None:
    plain, c = chip(), made(rule, **{"device.pulse.pulse_ns": 50.0, "device.pulse.pulse_energy_nj": 0.1})
    arrays = ARRAYS[rule]
    assert c.program.cost().devices == arrays * plain.program.cost().devices
    assert len(c.program.cells("Gemm_0")) == arrays * len(plain.program.cells("Gemm_0"))
    t = trainer(c, lr=0.1, **SGD)
    t.step(X[:16], Y[:16])
    cost, used = t.cost(), sum(int(c.memory[f"{name}/writes"].sum()) for name in c.crossbars)
    assert cost["writes"]["pulses"] == used > 0
    assert cost["energy_mj"]["writes"] == pytest.approx(used * 0.1e-6)
    length = 31
    gradients = (16 * 16 + 16) * length
    transfers = (ARRAYS[rule] > 1) * 8 * length if rule != "ttv2" else None
    if transfers is not None:
        assert cost["latency_ms"]["writes"] == pytest.approx((gradients + transfers) * 50e-6)
    assert (cost["tile_ops"]["transfer"] > 0) == (arrays > 1)


def test_forward_reads_leave_out_an_array_without_a_share() -> None:
    hidden, seen = made("tiki_taka"), made("tiki_taka", **{"update.gamma": 0.5})
    for c in (hidden, seen):
        c.run({"x": X}, 0)
    one, other = hidden.stats()["Conv_0"], seen.stats()["Conv_0"]
    assert other["adc_conversions"] == 2 * one["adc_conversions"]
    held = hidden.crossbars["Conv_0"]
    before = hidden.run({"x": X}, 0)["y"]
    held.g_us[:, :, 1] = 9.0
    held.written()
    assert hidden.run({"x": X}, 0)["y"].tobytes() == before.tobytes()


def test_an_image_holds_the_effective_weight() -> None:
    t = trainer(made("residual_arrays", **EXACT | {"adc.bits": 12, "dac.bits": 8, "weights.window": "largest"}), lr=0.1, **SGD)
    t.fit(X, Y, epochs=2)
    weights = t.weights()
    held = t.chip.weights()
    np.testing.assert_allclose(held["Gemm_0"][0], weights["w2"].T, atol=1e-5)
    image = cimc.export_image(t.chip)
    die = image.program(seed=3)
    assert die.program.target.planes == 2
    step = np.abs(weights["w2"]).max() / 2000
    np.testing.assert_allclose(die.weights()["Gemm_0"][0], weights["w2"].T, atol=step)


# Options --------------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_update() -> None:
    c = made("pulsed")
    t = trainer(c, lr=0.1, accumulate=2, **SGD)
    t.fit(X, Y, epochs=1)
    assert int(c.memory["Conv_0/rule.step"][0]) == 64 // 16 // 2


def test_clipping_lowers_the_rate_of_the_arrays() -> None:
    pulses = []
    for clip in (None, 0.01):
        t = trainer(made("pulsed"), lr=0.1, clip_norm=clip, **SGD)
        t.step(X[:16], Y[:16])
        pulses.append(t.cost()["writes"]["pulses"])
        norm = np.sqrt(sum(float(np.square(g).sum()) for g in trainer(made("pulsed"), **SGD).gradients(X[:16], Y[:16]).values()))
    assert pulses[1] < 3 * pulses[0] * 0.01 / norm < pulses[0]


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"update.rule": "tiki_taka"}, {"optimizer": "adamw"}, "sums gradients"),
        ({"update.rule": "tiki_taka"}, {"optimizer": "momentum"}, "sums gradients"),
        ({"update.rule": "pulsed"}, {"optimizer": "sgd", "optimizer_options": {"weight_decay": 0.1}}, "weight decay"),
        ({}, {"optimizer": "sgd", "update": "tiki_taka"}, "made for threshold updates"),
        ({"update.rule": "ttv2"}, {"update": "threshold"}, "made for ttv2 updates"),
        ({"update.rule": "pulsed"}, {"optimizer": "sgd", "update": "tikitaka"}, "no update rule"),
        ({"update.rule": "pulsed"}, {"optimizer": "sgd", "threshold": 0.1}, "no option"),
    ],
)
def test_what_cannot_be_is_refused_in_words(settings: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(CimcError, match=said) as error:
        trainer(chip(**settings), init="weights", **options)
    assert error.value.fix


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"weights.representation": "offset", "array.unit_column": True}, "differential_pair"),
        ({"weights.cells": 2, "weights.bits": 3, "weights.rounded": True}, "weights.cells=1"),
        ({"update.pulse_train": 33}, "at most 32"),
        ({"update.gamma": -1}, "at least 0"),
        ({"update.buffer_share": 0.1}, "no field of this kind"),
    ],
)
def test_targets_that_such_a_rule_cannot_have(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        load_target("bulk-rram", {"update.rule": "tiki_taka", **chosen})


def test_a_chip_without_pulses_is_refused() -> None:
    with pytest.raises(TargetError, match="blind pulses need"):
        trainer(chip("isaac", **{"update.rule": "pulsed", "weights.representation": "differential_pair", "weights.cells": 1,
                                 "weights.bits": None, "adc.conversion": "integrated", "adc.flipped": False,
                                 "dac.signed": "two_phase", "adc.range_ua": None}), **SGD)  # fmt: skip


def test_the_analog_backward_pass_reads_all_arrays_with_a_share() -> None:
    back = {"array.transposed": {}, "update.rule": "residual_arrays"}
    c = chip(**EXACT, **back)
    analog, digital = (trainer(c, backward=backward, **SGD).gradients(X[:16], Y[:16]) for backward in ("analog", "digital"))
    for name, gradient in digital.items():
        np.testing.assert_allclose(analog[name], gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max())


def test_the_command_line_compiles_for_the_rule_that_it_names(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    options = ["--data", str(tmp_path / "d.npz"), "--epochs", "1", "--batch", "16", "--set", "update.gamma=0.25"]
    options += ["--init", "weights", "--json", "-o", str(tmp_path / "t.cim")]
    command = ["train", str(tmp_path / "m.onnx"), "--update", "tiki_taka", *options]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "--optimizer sgd" in refused.stderr
    done = CliRunner().invoke(app, [*command, "--optimizer", "sgd"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["cost"]["tile_ops"]["transfer"] > 0
    assert cimc.load(tmp_path / "t.cim").target.update.shares == (1.0, 0.25)
