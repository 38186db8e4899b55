"""Writing a layer whose weights lie on several devices each: an update rule names one device, and all its repeats are written.

A rule knows each weight once. It numbers devices as in ``[groups, rows, planes, columns]`` of the matrix without repeats. The
repeats of a device get the same goal or the same pulses, each with draws of its own, and each write counts. What is read back of
a weight is the mean of one read of each of its repeats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.program import Layer, Program, Repeats
from cimc.ir.records import ONCE
from cimc.runtime.programmers.access import F32, I64
from cimc.runtime.write import Writes
from cimc.training.rules.rule import Rule

#: Built-in update rules that take repeats.
_TAKING = ("threshold", "residual", "naive")


class RepeatedWriter:
    """The writer of an update rule, for a layer with repeats. A rule that ``takes_repeats`` uses nothing else of its writer.

    Args:
        writer: Of all devices of the layer, as the rule makes it.
        repeats: Of the layer.
        shape: Of the layer's devices: groups, rows, planes and columns, repeats included.

    Attributes:
        touched: Devices that the last call wrote, by their flat numbers among all devices.
    """

    def __init__(self, writer: Any, repeats: Repeats, shape: tuple[int, ...]) -> None:
        groups, rows, planes, columns = self.shape = shape
        self._writer, self._repeats = writer, repeats
        self._once = groups, rows // repeats.rows, planes, columns // repeats.columns
        numbers = np.arange(repeats.rows)[:, None] * self._once[1] * planes * columns + np.arange(repeats.columns) * self._once[3]
        self._offsets: I64 = numbers.reshape(-1)
        self.device_seed, self.touched = writer.device_seed, np.zeros(0, np.int64)

    def write(self, devices: I64, goal_us: F32) -> Writes:
        """Bring all repeats of devices (``[n]``) to their goals, µS, ``[n]``."""
        self.touched = self._all(devices)
        done: Writes = self._writer.write(self.touched, np.repeat(goal_us, self._repeats.cells))
        return done

    def pulse(self, devices: I64, pulses: NDArray[np.int32]) -> Writes:
        """Pulses (``[n]``) to all repeats of devices (``[n]``)."""
        self.touched = self._all(devices)
        done: Writes = self._writer.pulse(self.touched, np.repeat(pulses, self._repeats.cells))
        return done

    def present_us(self) -> F32:
        """What devices hold now, µS, flat: the mean over the repeats of each."""
        mean: F32 = self._repeats.averaged(self._writer.present_us().reshape(self.shape)).reshape(-1)
        return mean

    def read_sigma_us(self, present_us: F32) -> F32:
        """Deviation of the mean of one read of each repeat, µS: ``[1]``, or one for each entry of `present_us`."""
        sigma_us: F32 = self._writer.read_sigma_us(self._writer.present_us())
        if sigma_us.size == 1 < np.prod(self.shape):
            return sigma_us / np.float32(np.sqrt(self._repeats.cells))
        variance = self._repeats.averaged(np.square(sigma_us).reshape(self.shape)) / self._repeats.cells
        found: F32 = np.sqrt(variance).astype(np.float32).reshape(-1)
        return found

    def _all(self, devices: I64) -> I64:
        """Numbers of all repeats of devices, those of one device side by side."""
        group, row, plane, column = np.unravel_index(devices, self._once)
        first = np.ravel_multi_index((group, row, plane, column), self.shape)
        numbers: I64 = (first[:, None] + self._offsets).reshape(-1)
        return numbers


def check_repeats(program: Program, rule: Rule) -> None:
    """See that an update rule can train a program whose layers have repeats of rows or columns; repeated reads suit any.

    Raises:
        CimcError: It changes single cells, not weights.
    """
    repeated = next((layer for layer in program.layers if layer.repeats.cells > 1), None)
    if repeated is None or (rule.takes == "change" and getattr(rule, "takes_repeats", False)):
        return
    own = type(rule).__name__.lower()
    raise CimcError(
        f"each of its weights lies on {repeated.repeats.cells} places, and {own} updates change each place by itself",
        where=f"layer {repeated.name}",
        fix=f"compile with --repeat none (repeats=None), or for {', '.join(_TAKING[:-1])} or {_TAKING[-1]} updates",
    )


def told_repeats(program: Program) -> dict[str, Any]:
    """The repeats of layers as a setting of a run, by layer; empty where nothing is repeated, as in runs of earlier versions."""
    told = {layer.name: layer.repeats.model_dump(exclude_defaults=True) for layer in program.layers if layer.repeats != ONCE}
    return {"repeats": told} if told else {}


def lay_out(matrix: NDArray[Any], weights: F32, layer: Layer) -> None:
    """Write W ``[groups, rows, columns]`` to all its repeats in the matrix of the layer's crossbars, in place."""
    groups, rows, columns = weights.shape
    repeats = layer.repeats
    matrix.reshape(groups, repeats.rows, rows, repeats.columns, columns)[...] = weights[:, None, :, None]
