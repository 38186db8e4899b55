"""What each cause does to the devices of a layer, and the devices with only a part of it.

The devices of a copy pass through stages. Each stage differs from the one before by one cause:

====================  ==============================================================
stage                 cause of its difference from the stage before
====================  ==============================================================
weights               (the first stage)
clipped               weight clipping: the window spans no larger weight
goals                 weight rounding
written               programming error: what writes left, of the cells that are not stuck
held                  faults: what stuck cells hold
present               drift, with its digital compensation
effective             IR drop of the wires
====================  ==============================================================

The differences add up to the whole. So a part of one is taken off by a subtraction, and every other cause keeps its draws. In
weight units this is exact. The conductances follow cell by cell. Clipping and rounding have no cells of their own: what is left
then is put into the cells of the weight's sign.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.budget.causes import OF_DEVICES, Cause, Kept
from cimc.ir.encoding import encode, level_step_us, steps_of_full_weight, unit_goal_us
from cimc.ir.weight_codes.registry import weight_code
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import may_be_stuck, stuck_us
from cimc.runtime.crossbar import Crossbar

F32 = NDArray[np.float32]

#: Largest deviation of a weight, in weights that span the window, which counts as none: float32 rounds to less.
_NOTHING = 1e-5


class Deviations:
    """The deviations of one copy of a layer.

    Args:
        own: The layer on the chip.
        matrix: The weights that it stands for, as they lie on its crossbars, ``[groups, rows, columns]``.
        copy: Number of the copy.
        scale: What the digital side takes the devices for, over what they were written for; 1 where that agrees.
    """

    def __init__(self, own: Crossbar, matrix: NDArray[Any], copy: int, scale: float = 1.0) -> None:
        self.own, self.matrix, self.scale = own, matrix, scale
        target, cells = own.target, own.cells_of(copy)
        self._span = np.asarray(own.weight_max, np.float64).reshape(-1) / scale
        step = np.broadcast_to(self._span / steps_of_full_weight(target), (own.groups * own.columns,)).copy()
        held, present, effective = (
            replace(devices[copy], coefficients=replace(devices[copy].coefficients, weight_step=step))
            for devices in (own.held, own.present, own.effective)
        )
        encoded = encode(matrix, self._span, own.row_cuts, target)
        unit = np.full_like(held.unit_g_us, unit_goal_us(target))
        goals = Devices(encoded.g_us, unit, encoded.coefficients)
        written = held
        if may_be_stuck(target.device):
            stuck, units = (~np.isnan(stuck_us(target.device, keys)) for keys in (cells.keys(), cells.unit_keys()))
            g_us, unit_g_us = np.where(stuck, goals.g_us, held.g_us), np.where(units, unit, held.unit_g_us)
            written = replace(held, g_us=g_us, unit_g_us=unit_g_us)
        self._stages = [goals, written, held, present, effective]

    @cached_property
    def _weights(self) -> list[F32]:
        """Of each stage, ``[groups, rows, columns]``."""
        own = self.own
        span = self._span if self._span.size == 1 else self._span.reshape(own.groups, 1, own.columns)
        whole = self.matrix.astype(np.float32)
        clipped = np.clip(whole, -span, span).astype(np.float32)
        return [whole, clipped, *(self._decoded(devices) for devices in self._stages)]

    def _decoded(self, devices: Devices) -> F32:
        return devices.weights(self.own.row_cuts, self.own.unit_cuts, self.own.target)

    def causes(self) -> set[Cause]:
        """The causes that move any weight."""
        window = float(self._span.max(initial=0.0)) or 1.0
        moved = {
            cause
            for cause, before, after in zip(OF_DEVICES, self._weights, self._weights[1:], strict=False)
            if np.abs(after - before).max(initial=0) > _NOTHING * window
        }
        return moved | ({"scale"} if self.scale != 1 else set())

    def goal_sums(self, kept: Kept) -> NDArray[np.float64]:
        """Sum over the rows of the weights that are to be written, ``[groups * columns]``."""
        whole, clipped, goals = (stage.astype(np.float64) for stage in self._weights[:3])
        off = (1 - kept.get("weight clipping", 1.0)) * (whole - clipped)
        off += (1 - kept.get("weight rounding", 1.0)) * (clipped - goals)
        sums: NDArray[np.float64] = (goals + off).sum(axis=1).reshape(-1) * self._factor(kept)
        return sums

    def _factor(self, kept: Kept) -> float:
        return 1 + (self.scale - 1) * kept.get("scale", 1.0)

    def devices(self, kept: Kept) -> Devices:
        """The devices as a read sees them, with the kept part of each cause."""
        off = {cause: 1 - kept.get(cause, 1.0) for cause in OF_DEVICES}
        held, effective = self._stages[2], self._stages[4]
        coefficients = held.coefficients if off["drift"] == 1 else effective.coefficients
        now = replace(effective, coefficients=coefficients)
        if any(off.values()):
            wanted = self._weights[-1].copy()
            for cause, before, after in zip(OF_DEVICES, self._weights, self._weights[1:], strict=False):
                wanted -= np.float32(off[cause]) * (after - before)
            g_us, unit_g_us = effective.g_us.copy(), effective.unit_g_us.copy()
            for cause, old, new in zip(OF_DEVICES[2:], self._stages, self._stages[1:], strict=False):
                if off[cause] and new is not old:
                    g_us -= np.float32(off[cause]) * (new.g_us - old.g_us)
                    unit_g_us -= np.float32(off[cause]) * (new.unit_g_us - old.unit_g_us)
            now = replace(now, g_us=g_us, unit_g_us=unit_g_us)
            self._add(now, wanted - self._decoded(now))
        step = coefficients.weight_step * self._factor(kept)
        return replace(now, coefficients=replace(coefficients, weight_step=step))

    def _add(self, devices: Devices, weights: F32) -> None:
        """Let the devices stand for so much more, in place."""
        own, c = self.own, devices.coefficients
        alpha = np.repeat(c.alpha, np.diff(own.row_cuts), axis=1)
        unit_weight = (c.weight_step / level_step_us(own.target)).reshape(own.groups, 1, own.columns)
        signs = np.sign(weight_code(own.target).alpha)
        plus = int(np.argmax(signs > 0))
        minus = int(np.argmax(signs < 0)) if (signs < 0).any() else plus
        negative = self.matrix < 0
        for plane, mine in ((plus, ~negative), (minus, negative)):
            weight = alpha[:, :, plane] * unit_weight
            more = np.where(mine & (weight != 0), weights / np.where(weight != 0, weight, 1.0), 0)
            devices.g_us[:, :, plane] += more.astype(np.float32)
