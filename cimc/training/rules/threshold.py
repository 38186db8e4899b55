"""Threshold updates with write-verify, the scheme of Wu et al. (arXiv 2305.14547).

``ΔW += change``; where ``|ΔW|`` exceeds θ, the target ``W + ΔW``, clipped to the window, is written, W becomes the target and
ΔW 0. A device is written only where its own target differs from the last one written to it, so that of a pair mostly one is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.jit import kernel
from cimc.runtime.simd import wide
from cimc.runtime.write import Writer, Writes, writer
from cimc.targets.description import Target
from cimc.training.accumulator import F32, I64, U32, LayerState, WeightDevices, checked, goal_us, steps_of


@kernel(error_model="numpy")
def _cross(
    change: F32, weights: F32, delta: F32, written_us: F32, updates: U32, w_max: F32, theta: F32,
    full: float, shift: float, pair: bool, whole: bool, step_us: float, g_min_us: float, devices: I64, goals: F32,
) -> tuple[int, int]:  # fmt: skip
    """One pass over the layer; the devices to write and their goals are listed. Returns crossings and devices."""
    wide()
    groups, rows, columns = weights.shape
    planes = written_us.shape[2]
    crossings = n = 0
    for g in range(groups):
        for r in range(rows):
            crossed = 0
            for c in range(columns):  # nearly every row ends here, so this loop is one that vectorises
                delta[g, r, c] += change[g, r, c]
                crossed += abs(delta[g, r, c]) > theta[g, c]
            crossings += crossed
            for c in range(columns if crossed else 0):
                total = delta[g, r, c]
                if not abs(total) > theta[g, c]:
                    continue
                delta[g, r, c] = 0
                updates[g, r, c] += np.uint32(1)
                span = np.float64(w_max[g, c])
                moved = np.float32(weights[g, r, c] + total)
                steps = steps_of(np.float64(moved), span, full, shift, whole)
                weights[g, r, c] = steps / full * span if whole else min(max(moved, -w_max[g, c]), w_max[g, c])
                for p in range(planes):
                    goal = goal_us(steps, p, pair, shift, step_us, g_min_us)
                    if goal != written_us[g, r, p, c]:
                        written_us[g, r, p, c] = goal
                        devices[n] = ((g * rows + r) * planes + p) * columns + c
                        goals[n] = goal
                        n += 1
    return crossings, n


class Threshold:
    """The update rule of one target.

    Args:
        target: The chip; ``weights.rounded`` rounds targets to levels.
        threshold_share: θ in parts of the largest weight; None: ``update.threshold_share``, else one level step.
    """

    stateless = False
    takes = "change"
    takes_repeats = True

    def __init__(self, target: Target, threshold_share: float | None = None) -> None:
        self.target, self.code = target, WeightDevices.of(target)
        share = target.update.threshold_share if threshold_share is None else threshold_share
        self.threshold_share = self.code.granularity if share is None else share

    def begin(self, state: LayerState) -> None:
        """Prepare a new state: nothing to do."""

    def writer(self, state: LayerState, g_us: F32, seed: int, keys: Keys | None = None, devices: State | None = None) -> Writer:
        """The writer that `apply` takes, on a crossbar's conductances.

        Args:
            state: Of the layer.
            g_us: Conductances, µS.
            seed: From `cimc.runtime.write.device_seed`.
            keys: Gives the keys of the cells, see `cimc.runtime.write.DeviceState`.
            devices: Their state, likewise.
        """
        return writer(self.target, g_us, state.writes, seed, keys=keys, state=devices, pulses=state.pulses)

    def apply(self, state: LayerState, change: NDArray[np.float32], writer: Writer) -> Writes:
        """Take in one optimizer step (``[groups, rows, columns]``) and write what crossed the threshold."""
        code = self.code
        devices, goals = np.empty(state.writes.size, np.int64), np.empty(state.writes.size, np.float32)
        theta = state.w_max * np.float32(self.threshold_share)
        whole = code.whole and self.target.weights.rounded
        updates, n = _cross(
            checked(change, state), state.weights, state.delta, state.written_us, state.updates, state.w_max, theta,
            code.full, code.shift, code.pair, whole, code.step_us, code.g_min_us, devices, goals,
        )  # fmt: skip
        done = writer.write(devices[:n], goals[:n])
        done.updates = updates
        return done
