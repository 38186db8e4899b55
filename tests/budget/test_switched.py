"""A layer with all causes is the chip's, without any it is exact, and each alone is what its closed form says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import cimc
from cimc.budget.bench import Bench, Samples
from cimc.budget.causes import EXACT, Cause, of_read, only
from cimc.budget.deviations import Deviations
from cimc.budget.switched import SwitchedLayer
from cimc.ir.classes import Classes
from cimc.runtime.crossbar import Crossbar
from tests.budget.models import data, model, program, weights

#: A chip with every cause, by pairs; and other kinds of read.
NOISY: dict[str, Any] = {
    "device__programming__sigma_us": 2.0, "device__read_sigma_us": 1.0, "device__stuck_low_rate": 0.02,
    "array__wires__row_segment_ohm": 20.0, "array__rows": 16, "weights__clip_sigma": 2.0, "adc__sigma_lsb": 0.7,
    "adc__gain_sigma": 0.02, "adc__offset_sigma_lsb": 0.5, "adc__calibration_reads": 8, "dac__clip_share": 0.02,
}  # fmt: skip
CHIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "pairs": ("bulk-rram", NOISY),
    "pair subtracted": ("neurram", {"adc__gain_sigma": 0.02, "adc__sigma_lsb": 0.4}),
    "drift and compensation": ("hermes-pcm", {"weights__clip_sigma": 2.0}),
    "a conversion a bit": ("isaac", {"device__read_sigma_us": 4.0, "device__stuck_high_rate": 0.01}),
    "offset inputs": ("bulk-rram", {**NOISY, "dac__signed": "offset", "adc__gain_sigma": None, "adc__offset_sigma_lsb": None}),
    "shared references": (
        "bulk-rram",
        {**NOISY, "weights__representation": "shared_reference", "weights__columns_per_reference": 3, "device__levels": 15},
    ),
    "shared reference": (
        "bulk-rram",
        {"weights__representation": "shared_reference", "weights__columns_per_reference": 4, "device__levels": None},
    ),
    "slow noise": ("bulk-rram", {"device__slow_noise__sigma_us": 2.0, "device__slow_noise__held_images": 3}),
    "no converters": ("ideal", {"device__read_sigma_us": 0.02, "device__programming__sigma_us": 0.05}),
}


def chip_of(name: str, shift: float = 0.0) -> tuple[cimc.Chip, np.ndarray]:
    """A chip, an hour old, and signed inputs where ``shift`` is not 0."""
    target, settings = CHIPS[name]
    given = {path.replace("__", "."): value for path, value in settings.items()}
    x = data() - np.float32(shift)
    chip = cimc.Chip(cimc.compile(model(), target=target, calibration={"x": x}, settings=given), 3)
    chip.advance(3600.0)
    return chip, x


def switched(own: Crossbar, kept: Any) -> SwitchedLayer:
    return SwitchedLayer(own, [Deviations(own, own.matrix, copy) for copy in range(len(own.held))], kept)


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("name", CHIPS)
def test_all_causes_are_the_chip_and_none_is_exact(name: str, shift: float) -> None:
    chip, x = chip_of(name, shift)
    step, own = chip.program.vmm_steps[0], chip.crossbars["fc1"]
    beside = own.multiply(x, step.geometry, 5, 7)
    same = switched(own, {}).multiply(x, step.geometry, 5, 7)
    exact = switched(own, EXACT).multiply(x, step.geometry, 5, 7)
    wanted = x.astype(np.float64) @ weights()["w1"]
    np.testing.assert_allclose(exact, wanted, atol=1e-5 * np.abs(wanted).max())
    # Read in NumPy: currents that leave the range are few.
    read = switched(own, only("ADC saturation")).multiply(x, step.geometry, 5, 7)
    assert (np.abs(read - wanted) < 1e-5 * np.abs(wanted).max()).mean() > 0.99
    if name == "slow noise":  # the chip's kernels round the moved conductances, by a few hundredths of the noise
        assert np.square(same - beside).mean() < 0.05 * np.square(beside - wanted).mean()
    else:  # a code whose current lies at an edge within rounding may be the other one
        assert (np.abs(same - beside) < 1e-5 * np.abs(beside).max()).mean() > 0.999


def test_copies_keep_their_own_draws() -> None:
    chip, x = cimc.Chip(program("bulk-rram"), 1), data()
    one, step = chip.crossbars["fc1"], chip.program.vmm_steps[0]
    own = Crossbar(one.layer, one.matrix, one.weight_max, one.target, 1, copies=3)
    assert len(own.held) == 3
    np.testing.assert_array_equal(switched(own, {}).multiply(x, step.geometry, 5, 2), own.multiply(x, step.geometry, 5, 2))


def product(kept: Any, x: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray, Crossbar]:
    """Of the first layer, with and without errors."""
    chip = cimc.Chip(program(**settings), 2)
    own, step = chip.crossbars["fc1"], chip.program.vmm_steps[0]
    return switched(own, kept).multiply(x, step.geometry, 11), x.astype(np.float64) @ weights()["w1"], own


#: A chip with all causes, of which one is kept at a time.
ALL = {"target": "bulk-rram", **NOISY, "device__levels": 8, "weights__rounded": True, "adc__bits": 6, "dac__bits": 5}
ALL |= {"weights__scale": "layer", "dac__full_scale": "largest"}
ALL |= {"array__wires__row_segment_ohm": 0.0, "device__stuck_low_rate": 0.0, "array__rows": None, "adc__calibration_reads": None}


def window(own: Crossbar) -> float:
    return float(own.weight_max[0])


def test_rounding_and_clipping_of_weights() -> None:
    x = data()
    y, exact, own = product(only("weight clipping"), x, **ALL)
    clipped = np.clip(weights()["w1"].astype(np.float64), -window(own), window(own))
    assert np.abs(exact - x @ clipped).max() > 0.1
    np.testing.assert_allclose(y, x @ clipped, atol=1e-5)
    y, _, own = product(only("weight rounding"), x, **ALL)
    step = window(own) / 7
    np.testing.assert_allclose(y - exact, x @ (np.rint(clipped / step) * step - clipped), atol=1e-5)


def test_steps_and_clipping_of_inputs() -> None:
    x = data()
    y, exact, own = product(only("DAC clipping"), x, **ALL)
    gain = own.layer.coding.gain
    inside = np.clip(x.astype(np.float64) * gain, 0, 31) / gain
    assert (inside < x - 1e-6).any()
    np.testing.assert_allclose(y, inside @ weights()["w1"], atol=1e-5)
    y, exact, _ = product(only("DAC step"), x, **ALL)
    lost = inside - np.rint(inside * gain) / gain
    np.testing.assert_allclose(y - exact, -lost @ weights()["w1"], atol=1e-5)


@pytest.mark.parametrize("cause", ["programming error", "read noise", "ADC noise"])
def test_the_power_of_noise_has_its_closed_form(cause: Cause) -> None:
    x = data(512)
    y, exact, own = product(only(cause), x, **ALL)
    spec, device = own.read_spec(), own.target.device
    of_a_weight = window(own) / (device.g_max_us - device.g_min_us)  # weight of a microsiemens
    drive = np.minimum(np.rint(x.astype(np.float64) * own.layer.coding.gain), 31) / own.layer.coding.gain
    cells = np.square(drive).sum(axis=1).mean() * 2 * of_a_weight**2
    power = {
        "programming error": cells * device.programming.sigma_us**2,
        "read noise": cells * device.read_sigma_us**2,
        "ADC noise": 2 * (own.target.adc.sigma_lsb * spec.factor[0]) ** 2,
    }[cause]
    # A die draws 2 x 24 x 16 errors of writes, of which 24 x 2 make each output; reads draw anew.
    tolerance = 5 * np.sqrt(2 / (16 * 24 if cause == "programming error" else y.size))
    assert np.square(y - exact).mean() == pytest.approx(power, rel=tolerance)


def test_the_step_of_the_adc_has_its_closed_form() -> None:
    x = data(512)
    y, exact, own = product(only("ADC step"), x, **ALL)
    # Uniform over a step on each of two lines; the minus line of a small product may rest on one code.
    assert np.square(y - exact).mean() == pytest.approx(2 / 12 * own.read_spec().factor[0] ** 2, rel=0.15)


def test_the_mismatch_of_converters_has_its_closed_form() -> None:
    x = data()
    y, exact, own = product(only("ADC mismatch"), x, **ALL)
    spec, matrix = own.read_spec(), weights()["w1"].astype(np.float64)
    e, w = spec.errors, np.stack([np.maximum(matrix, 0), np.maximum(-matrix, 0)], axis=1)
    assert e is not None
    g_us = own.target.device.g_min_us + w / window(own) * (own.target.device.g_max_us - own.target.device.g_min_us)
    codes = x.astype(np.float64) * own.layer.coding.gain
    current = np.einsum("nr,rpc->npc", np.clip(np.rint(codes), 0, 31), g_us) * spec.volt
    off = (e.gain.reshape(2, -1) - 1) * current + e.offset_lsb.reshape(2, -1)
    np.testing.assert_allclose(y - exact, (off[:, 0] - off[:, 1]) * spec.factor, atol=2e-5)


def test_a_network_without_errors_is_onnx_runtimes() -> None:
    chip, x = chip_of("pairs")
    wanted = ort.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    bench = Bench(chip, Samples([{"x": x}], [wanted], None, Classes()))
    causes = dict.fromkeys(bench.layers, EXACT)
    for outcome in (bench.alone({}), bench.kept(causes), bench.alone(dict.fromkeys(bench.layers, only()))):
        assert outcome.sqnr_db is None or outcome.sqnr_db > 120
    assert bench.kept({}).error == bench.whole().error
    assert of_read(chip.program.target) <= bench.causes_of("fc1")
