"""A layer's digital state: what conductances mean, and checkpoints of it."""

import numpy as np
import pytest

from cimc.errors import ArtifactError, DataError, RunError, TargetError
from cimc.ir.encoding import encode
from cimc.targets.load import load_target
from cimc.training.accumulator import WeightDevices
from tests.training.layers import OFFSET, SPANS, Layer, changes, span_of_each


@pytest.mark.parametrize(
    "settings", [{}, OFFSET, {"weights.bits": 5, "device.levels": 16}, OFFSET | {"weights.bits": 4, "device.levels": 16}]
)
def test_conductances_mean_the_weights_they_were_encoded_from(settings):
    layer = Layer(settings=settings)
    weights = np.random.default_rng(0).uniform(-1, 1, (2, 4, 3)) * span_of_each()
    g_us = encode(weights, SPANS.astype(float), (0, 4), layer.target).g_us
    np.testing.assert_allclose(WeightDevices.of(layer.target).held(g_us, SPANS.reshape(2, 3)), weights, atol=1e-5)


def test_born_on_devices_give_the_first_weights():
    layer = Layer()
    g = layer.g_us.astype(np.float64)
    expected = (g[:, :, 0] - g[:, :, 1]) / (32.9 - 8.2) * span_of_each()
    np.testing.assert_allclose(layer.state.weights, expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(layer.state.written_us).all()
    assert not layer.state.delta.any()


def test_given_weights_count_as_written_and_are_clipped():
    layer = Layer(weights=np.full((2, 4, 3), 0.4))
    np.testing.assert_allclose(layer.state.weights, np.minimum(0.4, span_of_each() + np.zeros((2, 4, 3))))
    assert layer.state.written_us.shape == (2, 4, 2, 3)
    assert (layer.state.written_us[:, :, 1] == np.float32(8.2)).all()
    assert not layer.state.writes.any()


def test_a_checkpoint_restores_in_place():
    layer, other = Layer(), Layer()
    for change in changes(0, 0.3, 5):
        layer.apply(change)
    other.state.restore({name: a.copy() for name, a in layer.state.state().items()})
    other.g_us[...] = layer.g_us
    for change in changes(1, 0.3, 5):
        assert layer.apply(change) == other.apply(change)
    assert layer.g_us.tobytes() == other.g_us.tobytes()
    assert all(a.tobytes() == other.state.state()[n].tobytes() for n, a in layer.state.state().items())


def test_a_checkpoint_of_another_layer_is_refused_whole():
    layer = Layer()
    before = layer.state.weights.copy()
    arrays = {name: a + 1 for name, a in layer.state.state().items()} | {"writes": np.zeros(3, np.uint32)}
    with pytest.raises(ArtifactError, match="writes is uint32"):
        layer.state.restore(arrays)
    del arrays["delta"]
    with pytest.raises(ArtifactError, match="delta is missing"):
        layer.state.restore(arrays)
    np.testing.assert_array_equal(layer.state.weights, before)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"weights.cells": 2, "weights.bits": 4, "weights.rounded": True}, "weights.cells"),
        ({"adc.flipped": True, "array.unit_column": True}, "adc.flipped"),
    ],
)
def test_a_weight_that_no_single_write_can_move_is_refused(settings, name):
    with pytest.raises(TargetError, match=name):
        WeightDevices.of(load_target("bulk-rram", settings))


@pytest.mark.parametrize("rule", ["threshold", "residual", "naive"])
def test_steps_that_would_end_in_the_devices_wrongly_are_refused(rule):
    layer = Layer(rule)
    before = layer.g_us.copy()
    for bad in (np.nan, np.inf):
        change = changes(0, 0.5, 1)[0]
        change[1, 2, 1] = bad
        with pytest.raises(RunError, match="diverged"):
            layer.apply(change)
    with pytest.raises(DataError, match="shape"):
        layer.apply(np.zeros((2, 4, 2)))
    np.testing.assert_array_equal(layer.g_us, before)
