"""An update rule of somebody else: two arrays a weight, one that takes steps up and one that takes steps down.

Sign updates: the dense gradient says which weights are to rise and which are to fall. Each gets one blind pulse a step, on the
first array where it rises and on the second where it falls. Both arrays have the same share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

import cimc
from cimc.rules import LayerState, TrainWriter, Update, Vectors, WeightDevices, Writes


class TwoSigns:
    stateless = True
    takes = "vectors"

    class Section(Update):
        rule: str = "two_signs"
        dead_share: float = Field(0.1, ge=0, le=1, description="Gradients below this part of the largest one give no pulse.")

        @property
        def shares(self) -> tuple[float, ...]:
            return (0.5, 0.5)

    def __init__(self, target: Any) -> None:
        self.target, self.code, self.dead_share = target, WeightDevices.of(target), target.update.dead_share

    def begin(self, state: LayerState) -> None:
        state.own["signs"] = np.zeros(state.weights.shape, np.int32)

    def writer(self, state: LayerState, g_us: Any, seed: int, keys: Any = None, devices: Any = None) -> TrainWriter:
        return TrainWriter(self.target, g_us, state.writes, seed, keys, devices, state.pulses, shape=g_us.shape)

    def apply(self, state: LayerState, vectors: list[Vectors], lr: float, writer: TrainWriter, reader: Any) -> Writes:
        gradient = np.sum([part.gradient() for part in vectors], axis=0)
        sign = np.where(np.abs(gradient) > self.dead_share * np.abs(gradient).max(), -np.sign(gradient), 0).astype(np.int32)
        state.own["signs"] += sign
        done = Writes()
        for array, up in enumerate((1, -1)):
            some = sign == up
            done += writer.pulse(writer.devices_of(array)[some], sign[some])
        state.weights[...] = self.code.held(writer.present_us().reshape(writer.shape), state.w_max)
        return done


cimc.register("update_rule", "two_signs", TwoSigns)
