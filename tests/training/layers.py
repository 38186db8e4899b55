"""Small layers in training, for the tests of the rules."""

import numpy as np

from cimc.runtime.cells import born_on, numbered_keys
from cimc.runtime.write import device_seed
from cimc.targets.load import load_target
from cimc.training.accumulator import LayerState
from cimc.training.rules import registry

EXACT = {"device.programming.mean_us": 0.0, "device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0}
NOISELESS_PULSES = {"device.pulse.cycle_spread": 0.0, "device.pulse.device_spread": 0.0}
OFFSET = {"weights.representation": "offset", "array.unit_column": True}
SEED = device_seed(11, "conv1")
SPANS = np.float32([0.5, 0.25, 1.0, 0.3, 0.7, 2.0])


class Layer:
    """A layer [2, 4, 3] of a chip born on or programmed, with its rule."""

    def __init__(self, rule="threshold", weights=None, settings=None, chip="bulk-rram", spans=SPANS, **options):
        self.target = load_target(chip, settings or {})
        self.rule = registry.create(self.target, rule, **options)
        if weights is None:
            self.g_us = born_on(
                self.target.device, numbered_keys(SEED, 24 * self.target.planes).reshape(2, 4, self.target.planes, 3)
            )
            self.state = LayerState.from_devices(self.target, self.g_us, spans)
        else:
            self.state = LayerState.from_weights(self.target, weights, spans)
            self.g_us = self.state.written_us.copy()
        self.rule.begin(self.state)
        self.writer = self.rule.writer(self.state, self.g_us, SEED)

    def apply(self, change):
        return self.rule.apply(self.state, np.asarray(change, np.float32), self.writer)


def span_of_each():
    """The largest weight of each weight, [2, 1, 3]."""
    return SPANS.reshape(2, 1, 3)


def changes(seed, share, count):
    """Steps of deviation ``share`` of the largest weight, [count, 2, 4, 3]."""
    return (np.random.default_rng(seed).normal(0, share, (count, 2, 4, 3)) * span_of_each()).astype(np.float32)
