"""``ranges``: the ADC range of each layer, from the currents its columns carry on the calibration data.

Example, a chip whose ADCs end at 70 µA::

    before  layer conv2  coding unsigned gain 42.5
    after   layer conv2  coding unsigned gain 10.6 (2.0 bits lost)  adc 70 µA

With ``adc.range_ua: null`` the gain stays, and the range is what at most ``adc.saturation_share`` of the reads exceed.
Currents take in the mean programming error, and one draw each of programming error and read noise. Of a layer with more
than 2 million weights a part of the columns is looked at, drawn by key, at least 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.reads import LayerRead
from cimc.errors import VerifyError
from cimc.ir.encoding import encode
from cimc.ir.program import Layer, Program, weight_matrix
from cimc.ir.ranging import Samples, choose_ranges
from cimc.ir.samples import some_columns
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_cuts, need_samples
from cimc.targets.description import Target

_MIN_COLUMNS = 256


class Ranges(Pass):
    """Sets ``adc_range_ua`` of every layer; lowers its input gain where the chip fixes the range."""

    name: ClassVar[str] = "ranges"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError where a layer is not cut, or none of its inputs were kept."""
        if has_ranges(state.target):
            need_cuts(state)
            need_samples(state)

    def call(self, state: Compilation) -> Sequence[str]:
        """Raises FitError where a fixed range is too small at any gain."""
        program, target = state.need_program(), state.target
        if not has_ranges(target) or not program.layers:
            return ()
        spread = device_spread(target)
        layers = []
        for layer in program.layers:
            samples = Samples(LayerRead.of(state.samples[layer.name], layer, target).vectors)
            devices = TargetDevices.of(program, layer)
            layers.append(choose_ranges(layer, samples, devices, target, sigma_us=spread))
        state.program = program.model_copy(update={"layers": tuple(layers)})
        return [layer.name for layer in layers]

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a layer has no range though the ADC needs one."""
        check_ranges(state)

    def unchanged(self, state: Compilation) -> str:
        """The ADC has no range, or there is no layer."""
        return "no layer is on crossbars" if has_ranges(state.target) else "the target's ADC has no range a layer"


def check_ranges(state: Compilation) -> None:
    """Raise a VerifyError where a layer has no range though the ADC needs one."""
    for layer in state.need_program().layers if has_ranges(state.target) else ():
        if not layer.adc_range_ua or layer.coding.bits_lost < 0:
            raise VerifyError("it has no ADC range", where=f"layer {layer.name}", fix="run pass `ranges` before")


def has_ranges(target: Target) -> bool:
    """Whether each layer has an ADC range."""
    return target.adc.bits is not None and target.adc.conversion == "integrated"


def device_spread(target: Target) -> float:
    """Deviation of a read of a device about its goal, µS: programming error and read noise."""
    return hypot(target.device.read_spread_us, target.device.programming.sigma_us)


@dataclass(frozen=True)
class TargetDevices:
    """Target conductances of a layer, a row slice at a time; of keyed-random columns where it is large."""

    matrix: NDArray[Any]
    """``[groups, rows, columns]``."""
    weight_max: NDArray[np.float32]
    target: Target
    made: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, layer: Layer) -> TargetDevices:
        """The devices of a layer of a program."""
        return cls.sampled(weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], program.target, layer.name)

    @classmethod
    def sampled(cls, matrix: NDArray[Any], span: NDArray[np.float32], target: Target, name: str) -> TargetDevices:
        """The devices of a matrix; of a large one those of columns that the layer's name draws."""
        return cls(*some_columns(matrix, span, _MIN_COLUMNS, "columns", name), target)

    def __call__(self, begin: int, end: int) -> NDArray[np.float32]:
        if begin not in self.made:
            self.made[begin] = self._make(begin, end)
        return self.made[begin]

    def _make(self, begin: int, end: int) -> NDArray[np.float32]:
        mean = self.target.device.programming.mean_us
        g = encode(self.matrix[:, begin:end], self.weight_max, (0, end - begin), self.target).g_us
        if len(self.target.read_planes) < self.target.planes:
            g = g[:, :, list(self.target.read_planes)]
        g = g.reshape(g.shape[0], end - begin, -1)
        return np.maximum(g + np.float32(mean), 0) if mean else g
