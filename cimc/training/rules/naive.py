"""Naive updates: nothing of higher precision than a device's level is kept of a weight from one step to the next.

W is the level that the devices were last read at: a number of as few bits as the devices hold. A step is added and snapped to
the nearest level, within the window: less than half a level is lost, since W stands on a level itself. (Were the step added to
an unsnapped read, read noise would round it at random, and small steps would come through on average.) Where another level
comes out, the devices whose level differs are written, with the programming error, and read back once, with read noise: the
level nearest to that read is the new W, right or wrong, until the next write. Devices without levels take every step.

Moments are what the rule does without: a sum of the weight's gradients in FP32, in which steps too small for a level add up.
Optimizers that keep such sums are refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.jit import kernel
from cimc.runtime.write import Writer, Writes, writer
from cimc.targets.description import Target
from cimc.training.accumulator import F32, I64, U32, LayerState, WeightDevices, checked, goal_us, steps_of
from cimc.training.rules.reading import read_back


@kernel(error_model="numpy")
def _snap(
    change: F32, weights: F32, written_us: F32, updates: U32, w_max: F32, full: float, shift: float, pair: bool, whole: bool,
    step_us: float, g_min_us: float, touched: I64, devices: I64, goals: F32,
) -> tuple[int, int]:  # fmt: skip
    groups, rows, columns = weights.shape
    planes = written_us.shape[2]
    k = n = 0
    for g in range(groups):
        for r in range(rows):
            for c in range(columns):
                span = np.float64(w_max[g, c])
                moved = np.float64(weights[g, r, c]) + np.float64(change[g, r, c])
                steps = steps_of(moved, span, full, shift, whole)
                if steps == steps_of(np.float64(weights[g, r, c]), span, full, shift, whole):
                    continue
                touched[k] = (g * rows + r) * columns + c
                k += 1
                updates[g, r, c] += np.uint32(1)
                for p in range(planes):
                    goal = goal_us(steps, p, pair, shift, step_us, g_min_us)
                    if goal != written_us[g, r, p, c]:
                        devices[n] = ((g * rows + r) * planes + p) * columns + c
                        goals[n] = goal
                        n += 1
    return k, n


@kernel(error_model="numpy")
def _snap_weights(weights: F32, w_max: F32, full: float, shift: float) -> None:
    for g in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            for c in range(weights.shape[2]):
                span = np.float64(w_max[g, c])
                weights[g, r, c] = steps_of(np.float64(weights[g, r, c]), span, full, shift, True) / full * span


class Naive:
    """The update rule of one target."""

    stateless = True
    takes = "change"
    takes_repeats = True

    def __init__(self, target: Target) -> None:
        self.target, self.code = target, WeightDevices.of(target)

    def begin(self, state: LayerState) -> None:
        """Snap W of a new state to levels."""
        if self.code.whole:
            _snap_weights(state.weights, state.w_max, self.code.full, self.code.shift)

    def writer(self, state: LayerState, g_us: F32, seed: int, keys: Keys | None = None, devices: State | None = None) -> Writer:
        """The writer that `apply` takes; see `Threshold.writer`."""
        return writer(self.target, g_us, state.writes, seed, keys=keys, state=devices, pulses=state.pulses)

    def apply(self, state: LayerState, change: NDArray[np.float32], writer: Writer) -> Writes:
        """Add one optimizer step (``[groups, rows, columns]``) to what the devices hold. ΔW stays 0."""
        code, size = self.code, state.weights.size
        touched, devices = np.empty(size, np.int64), np.empty(state.writes.size, np.int64)
        goals = np.empty(devices.size, np.float32)
        form = (code.full, code.shift, code.pair, code.whole, code.step_us, code.g_min_us)
        k, n = _snap(
            checked(change, state), state.weights, state.written_us, state.updates, state.w_max, *form, touched, devices, goals
        )
        done = writer.write(devices[:n], goals[:n])
        done.updates = k
        seed = np.uint64(rng.key(writer.device_seed, "read back"))
        present_us = writer.present_us()
        sigma = writer.read_sigma_us(present_us)
        read_back(
            touched[:k],
            present_us,
            state.updates,
            state.weights,
            state.written_us,
            state.w_max,
            *form,
            sigma,
            seed,
            True,
        )
        return done
