"""Spread between dice: moments of what is drawn, and of the conductances that dice are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.cli.app import app
from cimc.population.between import parse_spreads, spread_between
from cimc.population.settings import with_settings
from cimc.population.wafer import Wafer
from cimc.targets.load import load_target

MEAN, SIGMA = "device.programming.mean_us", "device.programming.sigma_us"
TARGET = load_target("bulk-rram", {MEAN: 1.0, SIGMA: 2.0})
N = 4000


@pytest.fixture(scope="module")
def program() -> cimc.Program:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 12] x) => (float[n, 4] y) { y = MatMul (x, w) }'
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return cimc.compile(model, TARGET, calibration={"x": np.random.default_rng(2).random((64, 12)).astype(np.float32)})


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    random = np.random.default_rng(3)
    return random.random((60, 12)).astype(np.float32), random.integers(0, 4, 60)


def test_moments_over_dice() -> None:
    """Bounds are five standard errors of mean and deviation."""
    dice = spread_between(Wafer(tuple(range(N))), {MEAN: 0.5, SIGMA: "10%"}, TARGET)
    for path, value, spread in ((MEAN, 1.0, 0.5), (SIGMA, 2.0, 0.2)):
        drawn = np.array([own[path] for own in dice.settings])
        assert abs(drawn.mean() - value) < 5 * spread / np.sqrt(N)
        assert abs(drawn.std() - spread) < 5 * spread / np.sqrt(2 * N)
    both = np.array([[own[MEAN], own[SIGMA]] for own in dice.settings])
    assert abs(np.corrcoef(both.T)[0, 1]) < 5 / np.sqrt(N)


def test_a_die_has_the_same_draw_in_every_study() -> None:
    many = spread_between(Wafer((3, 7, 9)), {MEAN: 0.5}, TARGET)
    alone = spread_between(Wafer((7,), (1.0,), (2.0,), ({MEAN: -4.0},)), {MEAN: 0.5, SIGMA: "0%"}, TARGET)
    assert alone.settings[0][MEAN] + 4.0 == pytest.approx(many.settings[1][MEAN] - 1.0)
    assert alone.settings[0][SIGMA] == 2.0
    assert alone.x_mm == (1.0,)


def test_errors_of_devices_correlate_within_a_die(program: cimc.Program) -> None:
    """The variance of the mean error of a die is that between dice, and that of its devices over their number."""
    dice, spread = spread_between(Wafer(tuple(range(300))), {MEAN: 0.5}, TARGET), 0.5
    exact = cimc.Chip(with_settings(program, {MEAN: 0.0, SIGMA: 0.0})).crossbars
    means, devices = [], 0
    for number, seed in enumerate(dice.seeds):
        (crossbar,) = cimc.Chip(with_settings(program, dice.of(number)), seed).crossbars.values()
        goals = next(iter(exact.values())).g_us
        written = goals > 20  # no error reaches 0
        devices = int(written.sum())
        means.append(float((crossbar.g_us - goals)[written].mean()))
    expected = spread**2 + 2.0**2 / devices
    assert abs(np.var(means) - expected) < 5 * expected * np.sqrt(2 / len(means))


def test_each_die_is_that_of_a_single_evaluation(program: cimc.Program, data: tuple[Any, Any]) -> None:
    found = cimc.evaluate(program, *data, chips=3, seed=5, between_dice={MEAN: 3.0})
    assert found.wafer is not None
    for number, seed in enumerate(found.seeds):
        alone = cimc.evaluate(program, *data, chips=1, seed=seed, settings=found.wafer.of(number))
        assert found.accuracy[0, 0, number] == alone.accuracy[0, 0, 0]
    assert MEAN in found.over_wafer()


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        ({MEAN: "much"}, "no deviation"),
        ({MEAN: -1.0}, "between_dice"),
        ({"device.drift": 1.0}, "no number"),
        ({"adc.bits": 1.0}, "no number|changes the program|bits"),
        ({SIGMA: 50.0}, "sigma_us"),
    ],
)
def test_what_is_refused(program: cimc.Program, data: tuple[Any, Any], spreads: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        cimc.evaluate(program, *data, chips=8, between_dice=spreads)


def test_the_command(program: cimc.Program, data: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    command = ["evaluate", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz"), "--chips", "2"]
    assert app([*command, "--between-dice", f"{SIGMA}=10%"], standalone_mode=False) == 0
    assert "Spearman" in capsys.readouterr().out
    assert app([*command, "--between-dice", SIGMA], standalone_mode=False) == 2
    assert parse_spreads([f"{SIGMA}=10%", f"{MEAN}=1"]) == {SIGMA: "10%", MEAN: "1"}
