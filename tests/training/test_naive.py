"""Naive updates lose what is less than half a level, and know no more than the devices show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CimcError
from tests.training.layers import EXACT, Layer, changes, span_of_each
from tests.training.small import chip, trainer

ALL = np.zeros((2, 4, 3))


def test_steps_below_half_a_level_are_lost_however_many():
    span = span_of_each() + ALL
    layer = Layer("naive", weights=ALL, settings=EXACT)
    for _ in range(100):
        assert layer.apply(0.49 / 3 * span) == layer.apply(-0.49 / 3 * span)
    assert not layer.state.weights.any()
    assert not layer.state.writes.any()
    assert not layer.state.delta.any()


def test_a_step_above_half_a_level_goes_a_whole_one():
    span = span_of_each() + ALL
    layer = Layer("naive", weights=ALL, settings=EXACT)
    done = layer.apply(0.51 / 3 * span)
    assert (done.updates, done.devices) == (24, 24)
    np.testing.assert_allclose(layer.state.weights, span / 3, rtol=1e-6)
    np.testing.assert_allclose(layer.g_us[:, :, 0], 8.2 + 24.7 / 3, rtol=1e-6)


def test_the_threshold_rule_keeps_the_same_small_steps():
    """The difference that the accumulator makes."""
    span = span_of_each() + ALL
    layer = Layer("threshold", weights=ALL, settings=EXACT)
    for _ in range(100):
        layer.apply(0.009 * span)
    np.testing.assert_allclose(layer.state.weights + layer.state.delta, 0.9 * span, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.05, 0.3, 2.0]))
def test_w_is_always_a_level_in_the_window_that_the_last_read_gave(seed, share):
    layer = Layer("naive")
    s, span = layer.state, span_of_each()
    for change in changes(seed, share, 6):
        old, goals = s.weights.copy(), np.clip(np.rint((s.weights + change) / span * 3), -3, 3)
        writes = s.writes.copy()
        done = layer.apply(change)
        levels = s.weights / span * 3
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-5)
        assert np.abs(levels).max() <= 3 + 1e-5
        moved = goals != np.rint(old / span * 3)
        np.testing.assert_array_equal(s.weights[~moved], old[~moved])
        assert done.updates == moved.sum()
        assert not (s.writes != writes)[~np.broadcast_to(moved[:, :, None], s.writes.shape)].any()


def test_with_exact_reads_w_is_the_level_nearest_to_what_the_devices_hold():
    layer = Layer("naive", settings={"device.read_sigma_us": 0.0, "device.programming.sigma_us": 6.0})
    for change in changes(0, 1.0, 10):
        layer.apply(change)
    held = (layer.g_us[:, :, 0].astype(float) - layer.g_us[:, :, 1]) / (24.7 / 3)
    written = layer.state.writes.min(axis=2) > 0
    assert written.any()
    np.testing.assert_allclose(
        (layer.state.weights / span_of_each() * 3)[written], np.clip(np.rint(held), -3, 3)[written], atol=1e-5
    )


@pytest.mark.parametrize("levels", [None])
def test_continuous_devices_lose_nothing(levels):
    layer = Layer("naive", weights=ALL, settings=EXACT | {"device.levels": levels})
    for _ in range(10):
        layer.apply(0.01 * span_of_each() + ALL)
    np.testing.assert_allclose(layer.state.weights, 0.1 * span_of_each() + ALL, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
def test_an_optimizer_that_sums_gradients_is_refused_and_the_chip_left_alone(optimizer):
    c = chip()
    before = {layer.name: c.conductances(layer.name).copy() for layer in c.program.layers}
    with pytest.raises(CimcError, match=f"{optimizer} sums gradients in FP32"):
        trainer(c, update="naive", optimizer=optimizer)
    for name, g_us in before.items():
        np.testing.assert_array_equal(c.conductances(name), g_us)


@pytest.mark.parametrize(
    ("optimizer", "options"), [("sgd", {}), ("momentum", {"momentum": 0.0}), ("adamw", {"beta1": 0.0, "beta2": 0.0})]
)
def test_an_optimizer_that_keeps_nothing_is_taken(optimizer, options):
    assert trainer(chip(), update="naive", optimizer=optimizer, optimizer_options=options).notes is not None
