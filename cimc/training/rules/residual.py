"""Residual updates by blind pulses, after Nandakumar et al. 2020 (Front. Neurosci. 14:406).

``χ += change``; where ``|χ|`` reaches the limit, ``n = trunc(χ / ε); χ -= n ε``. n pulses go to the devices, with no verify:
each is non-linear, asymmetric and noisy. In the paper the limit is ε itself. A larger one lets χ average the noise of
gradients first: a soft-bound pulse draws a weight towards the device's symmetry point, so pulses that cancel do harm.

Of a pair each device gets half of them, of opposite sign; a coin says which gets the odd one. So a weight and its
negative respond alike, and pulses that cancel leave a weight near 0, at any asymmetry. (Were the device that holds a weight
pulsed alone, from the foot of its window, such pulses would carry it to where up and down steps are equal: to half the largest
weight, of whichever sign it had.)
"""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.jit import kernel
from cimc.runtime.programmers.draws import device_key
from cimc.runtime.pulses import PulseWriter, pulse_steps
from cimc.runtime.write import Writes
from cimc.targets.description import Target
from cimc.training.accumulator import F32, I64, U32, LayerState, WeightDevices, checked
from cimc.training.rules.reading import read_back

I32 = NDArray[np.int32]

#: Sum of steps at which pulses are given, in parts of the largest weight.
_LIMIT = 1 / 3


@kernel(error_model="numpy")
def _count(
    change: F32, weights: F32, residual: F32, updates: U32, w_max: F32, share: float, limit: float, most: int, planes: int,
    seed: int, touched: I64, devices: I64, pulses: I32,
) -> tuple[int, int]:  # fmt: skip
    groups, rows, columns = weights.shape
    k = n = 0
    for g in range(groups):
        for r in range(rows):
            for c in range(columns):
                span = np.float64(w_max[g, c])
                step = share * span
                total = np.float64(residual[g, r, c]) + np.float64(change[g, r, c])
                if not abs(total) >= limit * span:
                    residual[g, r, c] = total
                    continue
                count = int(min(abs(total) / step, np.float64(most)))
                sign = 1 if total > 0 else -1
                residual[g, r, c] = total - sign * count * step
                touched[k] = (g * rows + r) * columns + c
                coin = np.int64(device_key(seed, touched[k], updates[g, r, c]) & np.uint64(1))
                k += 1
                updates[g, r, c] += np.uint32(1)
                w = np.float64(weights[g, r, c])
                weights[g, r, c] = min(max(w + sign * count * step, -span), span)
                first = (g * rows + r) * planes * columns + c
                minus = 0 if planes == 1 else (count + coin) // 2
                if count > minus:
                    devices[n], pulses[n] = first, sign * (count - minus)
                    n += 1
                if minus > 0:
                    devices[n], pulses[n] = first + columns, -sign * minus
                    n += 1
    return k, n


class Residual:
    """The update rule of one target.

    Args:
        target: The chip; it must give ``device.pulse.up_us`` and ``down_us``.
        threshold_share: ε in parts of the largest weight; None: ``update.threshold_share``, else the mean step of an up and
            a down pulse at the middle of the window.
        limit_share: ``|χ|`` at which pulses are given, in parts of the largest weight; None: ``update.limit_share``, else 1/3.
            At least ε.
        copy: Where W comes from after pulses. "read": one read of the devices, with read noise, as there is no digital copy
            in the scheme. "believed": W + n ε, which never sees what the pulses really did.

    Raises:
        TargetError: The target does not describe blind pulses.
    """

    stateless = False
    takes = "change"
    takes_repeats = True

    def __init__(
        self,
        target: Target,
        threshold_share: float | None = None,
        limit_share: float | None = None,
        copy: Literal["read", "believed"] = "read",
    ) -> None:
        self.target, self.code, self.copy = target, WeightDevices.of(target), copy
        mean_us = sum(pulse_steps(target)) / 2
        share = (target.update.threshold_share if threshold_share is None else threshold_share) or 0
        self.threshold_share = share or mean_us / (self.code.full * self.code.step_us)
        limit = target.update.limit_share if limit_share is None else limit_share
        self.limit_share = max(_LIMIT if limit is None else limit, self.threshold_share)

    def begin(self, state: LayerState) -> None:
        """Prepare a new state: nothing to do."""

    def writer(
        self, state: LayerState, g_us: F32, seed: int, keys: Keys | None = None, devices: State | None = None
    ) -> PulseWriter:
        """The writer that `apply` takes; see `Threshold.writer`."""
        return PulseWriter(self.target, g_us, state.writes, seed, keys, devices, state.pulses)

    def apply(self, state: LayerState, change: NDArray[np.float32], writer: PulseWriter) -> Writes:
        """Take in one optimizer step (``[groups, rows, columns]``), and give the whole pulses of sums that reach the limit.

        At most as many as span the window both ways go to a weight at a time; the rest stays in χ.
        """
        code, planes = self.code, state.writes.shape[2]
        touched, devices = np.empty(state.weights.size, np.int64), np.empty(state.writes.size, np.int64)
        pulses = np.empty(devices.size, np.int32)
        share, most = self.threshold_share, ceil(2 / self.threshold_share)
        k, n = _count(
            checked(change, state), state.weights, state.delta, state.updates, state.w_max, share, self.limit_share, most, planes,
            np.uint64(rng.key(writer.device_seed, "odd pulse")), touched, devices, pulses,
        )  # fmt: skip
        done = writer.pulse(devices[:n], pulses[:n])
        done.updates = k
        if self.copy == "read":
            seed = np.uint64(rng.key(writer.device_seed, "read back"))
            present_us, form = writer.present_us(), (code.full, code.shift, code.pair, False)
            sigma = writer.read_sigma_us(present_us)
            read_back(
                touched[:k], present_us, state.updates, state.weights, state.written_us, state.w_max, *form,
                code.step_us, code.g_min_us, sigma, seed, False,
            )  # fmt: skip
        return done
