"""Residual updates: whole pulses go to the devices, the rest stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import TargetError
from tests.training.layers import EXACT, NOISELESS_PULSES, OFFSET, Layer, changes, span_of_each

ALL = np.zeros((2, 4, 3))


@pytest.mark.parametrize("chip", [{}, OFFSET])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.002, 0.02, 0.3]),
    copy=st.sampled_from(["read", "believed"]),
    limit=st.sampled_from([0.0, 0.1, None]),
)
def test_whole_pulses_leave_the_residual(chip, seed, share, copy, limit):
    layer = Layer("residual", settings=chip, copy=copy, limit_share=limit)
    s, step = layer.state, layer.rule.threshold_share * span_of_each()
    bound = (1 / 3 if limit is None else max(limit, layer.rule.threshold_share)) * span_of_each()
    for change in changes(seed, share, 6):
        old = {n: a.copy() for n, a in s.state().items()}
        done = layer.apply(change)
        total = old["delta"].astype(np.float64) + change
        pulses = np.rint((total - s.delta) / step)
        np.testing.assert_allclose(s.delta, total - pulses * step, atol=1e-6)
        assert (np.abs(s.delta) <= bound * (1 + 1e-5)).all()
        assert (np.abs(s.delta)[pulses != 0] <= np.broadcast_to(step, s.delta.shape)[pulses != 0] * (1 + 1e-5)).all()
        assert (np.abs(total)[pulses != 0] >= np.broadcast_to(bound, total.shape)[pulses != 0] * (1 - 1e-5)).all()
        assert (pulses * total >= 0).all()
        given_pulses = (s.writes - old["writes"]).sum(axis=2)
        np.testing.assert_array_equal(given_pulses, np.abs(pulses))
        np.testing.assert_array_equal(s.updates - old["updates"], pulses != 0)
        assert done.devices == done.pulses == np.abs(pulses).sum()
        if copy == "believed":
            believed = np.clip(old["weights"] + pulses * step, -span_of_each(), span_of_each())
            np.testing.assert_allclose(s.weights, np.where(pulses != 0, believed, old["weights"]), atol=1e-5)


def test_the_pulse_step_is_that_of_the_middle_of_the_window_unless_set():
    layer = Layer("residual", settings={"device.pulse.up_us": 0.3, "device.pulse.down_us": 0.1})
    assert layer.rule.threshold_share == pytest.approx(0.2 / 24.7)
    assert Layer("residual", threshold_share=0.05).rule.threshold_share == 0.05


def test_the_limit_is_a_third_of_the_window_unless_set():
    assert Layer("residual").rule.limit_share == pytest.approx(1 / 3)
    assert Layer("residual", settings={"update.limit_share": 0.1}).rule.limit_share == 0.1
    assert Layer("residual", settings={"update.limit_share": 0.1}, limit_share=0.2).rule.limit_share == 0.2
    one_step = Layer("residual", threshold_share=0.05, limit_share=0.0)
    assert one_step.rule.limit_share == 0.05


def test_noise_that_cancels_gives_no_pulse_below_the_limit():
    """Steps of random sign and three pulse steps each: their sum stays within the limit, with a limit of one step it does not.

    A sum of 40 such signs has a deviation of 6.3 of them, 19 pulse steps of 0.01; 5 deviations are below 1.
    """
    signs = np.random.default_rng(3).choice([-1, 1], (40, 2, 4, 3))
    pulses = {}
    for limit in (0.0, 1.0):
        layer = Layer("residual", weights=ALL, threshold_share=0.01, limit_share=limit)
        pulses[limit] = sum(layer.apply(0.03 * span_of_each() * sign).pulses for sign in signs)
    assert pulses[1.0] == 0
    assert pulses[0.0] >= 40 * 24 * 2


def test_pulses_move_devices_as_soft_bounds_say():
    """Two up pulses for each weight at 0 raise plus by one, and minus cannot fall: at the lower bound an up step is twice that
    of the middle, a down step none."""
    layer = Layer(
        "residual",
        weights=ALL,
        settings=EXACT | NOISELESS_PULSES | {"device.pulse.up_us": 0.25},
        threshold_share=0.01,
        limit_share=0,
    )
    layer.apply(0.0201 * span_of_each() + ALL)
    np.testing.assert_array_equal(layer.state.writes, 1)
    np.testing.assert_allclose(layer.g_us[:, :, 0], 8.2 + 0.5, rtol=1e-5)
    np.testing.assert_allclose(layer.g_us[:, :, 1], 8.2, rtol=1e-6)
    # read back without noise: W is what the devices hold
    np.testing.assert_allclose(layer.state.weights, 0.5 / 24.7 * span_of_each() + ALL, rtol=1e-3)


def test_both_devices_of_a_pair_take_half_and_the_odd_pulses_fall_evenly():
    layer = Layer("residual", weights=ALL, threshold_share=0.01, limit_share=0)
    for _ in range(300):
        layer.apply(0.0101 * span_of_each() + ALL)
    plus, minus = (layer.state.writes[:, :, p].astype(float) for p in (0, 1))
    total = plus + minus  # the residual's own last bits decide the count
    assert (np.abs(total - 300) <= 4).all()
    assert (np.abs(plus - minus) < 5 * np.sqrt(total)).all()
    assert abs((plus - minus).mean()) < 5 * np.sqrt(300 / 24)
    layer.apply(0.5 * span_of_each() + ALL)
    np.testing.assert_array_less(np.abs((layer.state.writes[:, :, 0] - plus) - (layer.state.writes[:, :, 1] - minus)), 2)


@pytest.mark.parametrize("order", ["at random", "in turn"])
def test_pulses_that_cancel_leave_a_weight_near_zero(order):
    """With the chip's asymmetric, noisy pulses. The common part of a pair settles where up and down steps are equal."""
    layer = Layer(
        "residual", weights=ALL, settings={"device.read_sigma_us": 0.0, "device.pulse.device_spread": 0.0}, limit_share=0
    )
    step = 1.0001 * layer.rule.threshold_share * span_of_each()
    signs = np.random.default_rng(5).choice([-1, 1], (2000, 2, 4, 3))
    if order == "in turn":
        signs[::2], signs[1::2] = 1, -1
    for sign in signs:
        layer.state.delta[...] = 0
        layer.apply(sign * step)
    held = (layer.g_us[:, :, 0].astype(float) - layer.g_us[:, :, 1]) / 24.7
    # Each device walks by 0.225 µS (cycle spread 0.3) on half the pulses, drawn back by 0.225/12.35 of its deviation: its own
    # deviation is sqrt(0.225 * 1.09 * 12.35 / 2) = 1.23 µS, the pair's 0.070 of the window; of 24 weights 5 sigma are 0.05.
    assert np.sqrt(np.mean(held**2)) < 0.12
    assert abs(layer.g_us.mean() - (20.55 + 12.35 / 9)) < 1.0


def test_reads_are_noisy_and_fresh():
    layer = Layer(
        "residual",
        weights=ALL,
        settings=EXACT | NOISELESS_PULSES | {"device.read_sigma_us": 1.6},
        spans=np.float32([1.0]),
        limit_share=0,
    )
    seen = []
    for n in range(200):
        layer.apply(np.full((2, 4, 3), 0.02 if n % 2 else -0.02))
        g = layer.g_us.astype(np.float64)
        seen.append(layer.state.weights - (g[:, :, 0] - g[:, :, 1]) / 24.7)
    noise = np.array(seen).reshape(200, -1)
    expected = 1.6 * np.sqrt(2) / 24.7
    assert abs(noise.std() - expected) < 5 * expected / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)


def test_a_huge_sum_is_given_in_bounded_pulses():
    layer = Layer("residual", weights=ALL, threshold_share=0.01)
    done = layer.apply(np.full((2, 4, 3), 1e30))
    assert done.pulses == 24 * 200


def test_a_chip_without_blind_pulses_is_refused():
    with pytest.raises(TargetError, match=r"device\.pulse\.up_us"):
        Layer("residual", chip="ideal")
