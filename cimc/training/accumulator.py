"""The digital state of a crossbar layer in training: FP32 weights, accumulated change, last targets, counters.

Counters count training alone: what programmed the chip before the first step is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.errors import ArtifactError, DataError, RunError, TargetError
from cimc.ir.encoding import encode, level_step_us
from cimc.ir.records import ONCE, Repeats
from cimc.ir.weight_codes.registry import weight_code
from cimc.targets.description import Target
from cimc.training.gradients import finite

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class WeightDevices:
    """How one weight stands in one device, or in a pair: in level steps, as `cimc.ir.encoding` has it.

    ``g = g_min + step * d`` with d the digit: of a pair ``max(s, 0)`` and ``max(-s, 0)``, of a single device ``s + shift``,
    where ``s = w / w_max * full``.
    """

    full: float
    """Level steps of the largest weight."""
    shift: float
    pair: bool
    whole: bool
    """There are levels to round to."""
    step_us: float
    g_min_us: float
    shares: tuple[float, ...] = ()
    """Of the weight's arrays in the weight, where an update rule has arrays of its own: see `Update.shares`."""

    @classmethod
    def of(cls, target: Target) -> Self:
        """The code of a target's weights.

        Raises:
            TargetError: A weight is cut over several cells, or columns are stored complemented: such devices have no step
                of the weight that a single write could make.
        """
        w = target.weights
        if w.cells > 1 or target.adc.flipped:
            name = "weights.cells above 1" if w.cells > 1 else "adc.flipped"
            raise TargetError(
                f"training needs a weight in one device or one pair, not {name}",
                where=f"target {target.name}",
                fix="--set weights.cells=1 --set weights.bits=null --set adc.flipped=false, or train for another chip",
            )
        code = weight_code(target)
        pair, whole = code.alpha[-1] < 0, target.device.levels is not None or w.bits is not None
        if not target.update.shares:
            probe = np.linspace(-code.full, code.full, 9).reshape(1, 1, -1)
            expected = [np.maximum(probe, 0), np.maximum(-probe, 0)] if pair else [probe + code.shift]
            digits = code.encode(probe)
            if digits.shape[2] != len(expected) or not np.allclose(digits, np.stack(expected, axis=2)):
                raise TargetError(
                    f"training needs a weight in one device or one pair, not weights.representation={w.representation}",
                    where=f"target {target.name}",
                    fix="--set weights.representation=differential_pair, or train for another chip",
                )
        return cls(code.full, code.shift, pair, whole, level_step_us(target), target.device.g_min_us, target.update.shares)

    @property
    def granularity(self) -> float:
        """One level step in parts of the largest weight; 0 where levels are continuous."""
        return 1 / self.full if self.whole else 0.0

    def held(self, g_us: F32, w_max: F32) -> F32:
        """Weights that conductances (µS, ``[groups, rows, planes, columns]``) stand for, ``[groups, rows, columns]``."""
        g = g_us.astype(np.float64)
        digits = (g - self.g_min_us) / self.step_us
        if self.shares:
            count = len(self.shares)
            each = digits[:, :, :count] - digits[:, :, count:]
            steps = 2 * (each * np.array(self.shares)[:, None]).sum(axis=2)
        else:
            steps = digits[:, :, 0] - digits[:, :, 1] if self.pair else digits[:, :, 0] - self.shift
        held: F32 = (steps * (w_max[:, None] / self.full)).astype(np.float32)
        return held


@dataclass
class LayerState:
    """One layer; all arrays C-contiguous, changed in place by the update rules.

    Where the layer has repeats, each weight is here once: only what is counted of single devices has all of them.
    """

    weights: F32
    """W ``[groups, rows, columns]``: the digital copy that gradients use."""
    delta: F32
    """ΔW (χ of the residual rule), the same shape."""
    written_us: F32
    """Last target of the devices of each weight ``[groups, rows, planes, columns]``, µS; NaN: never written."""
    updates: U32
    """Updates of each weight, ``[groups, rows, columns]``."""
    writes: U32
    """Writes of each device, ``[groups, rows, planes, columns]`` as they lie on the crossbars, repeats included."""
    w_max: F32
    """Weight that spans the window, ``[groups, columns]``."""
    pulses: U32 | None = None
    """Pulses of each device, as `writes`, where the target's endurance counts them."""
    factor: F32 | None = None
    """What learning has multiplied ``w_max`` by since the start, ``[groups, columns]``; None: it is not learnt."""
    own: dict[str, NDArray[Any]] = field(default_factory=dict)
    """What the update rule keeps beside: numbers, by names of letters, digits and underlines; changed in place."""

    @classmethod
    def from_devices(cls, target: Target, g_us: F32, w_max: NDArray[Any], repeats: Repeats = ONCE) -> Self:
        """W read once from the devices, none of which counts as written.

        Args:
            target: The chip.
            g_us: Their conductances, µS, ``[groups, rows, planes, columns]``; W is the mean over the repeats of a weight.
            w_max: ``[1]`` or ``[groups * columns]``, columns once.
            repeats: Of the layer.
        """
        once_us = repeats.averaged(g_us)
        spans = _spans(w_max, once_us.shape[0], once_us.shape[3])
        weights = WeightDevices.of(target).held(once_us, spans)
        return cls._new(target, weights, np.full(once_us.shape, np.nan, np.float32), spans, repeats)

    @classmethod
    def from_weights(cls, target: Target, weights: NDArray[Any], w_max: NDArray[Any], repeats: Repeats = ONCE) -> Self:
        """W as given (``[groups, rows, columns]``, each once); the devices count as written to it, clipped to the window."""
        WeightDevices.of(target)
        spans = _spans(w_max, weights.shape[0], weights.shape[2])
        goals = encode(weights, spans.reshape(-1).astype(np.float64), (0, weights.shape[1]), target).g_us
        return cls._new(target, np.clip(weights, -spans[:, None], spans[:, None]).astype(np.float32), goals, spans, repeats)

    @classmethod
    def _new(cls, target: Target, weights: F32, written_us: F32, w_max: F32, repeats: Repeats) -> Self:
        weights, written_us = np.ascontiguousarray(weights), np.ascontiguousarray(written_us)
        groups, rows, planes, columns = written_us.shape
        devices = groups, rows * repeats.rows, planes, columns * repeats.columns
        counts = np.zeros(weights.shape, np.uint32), np.zeros(devices, np.uint32)
        pulses = np.zeros(devices, np.uint32) if target.device.endurance_unit == "pulses" else None
        return cls(weights, np.zeros_like(weights), written_us, *counts, w_max, pulses)

    def state(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, for a checkpoint."""
        arrays = {name: array for name, array in vars(self).items() if name != "own" and array is not None}
        return arrays | {f"rule.{name}": array for name, array in self.own.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a checkpoint, in place.

        Raises:
            ArtifactError: An array is missing or of another shape or type.
        """
        for name, own in self.state().items():
            found = arrays.get(name)
            if found is None or found.shape != own.shape or found.dtype != own.dtype:
                what = "is missing" if found is None else f"is {found.dtype}{list(found.shape)}, not {own.dtype}{list(own.shape)}"
                raise ArtifactError(
                    f"the checkpoint does not suit this layer: {name} {what}", fix="resume with the same model and target"
                )
        for name, own in self.state().items():
            own[...] = arrays[name]


def checked(change: NDArray[Any], state: LayerState) -> F32:
    """An optimizer step as the rules' kernels take it.

    Raises:
        DataError: It has another shape than the layer's weights.
        RunError: It holds NaN or infinity, which would end in the devices.
    """
    if change.shape != state.weights.shape:
        raise DataError(f"a step of shape {list(change.shape)} for weights of {list(state.weights.shape)}")
    step = np.ascontiguousarray(change, np.float32)
    if not finite(step):
        raise RunError("an update is not finite: training has diverged", fix="a lower learning rate, or clip gradients")
    return step


def _spans(w_max: NDArray[Any], groups: int, columns: int) -> F32:
    spans = np.asarray(w_max, np.float32).reshape(-1)
    spans = np.broadcast_to(spans if spans.size == 1 else spans.reshape(groups, columns), (groups, columns))
    return np.ascontiguousarray(np.where(spans > 0, spans, np.float32(1)))


@njit(inline="always", error_model="numpy")
def steps_of(weight: float, w_max: float, full: float, shift: float, whole: bool) -> float:
    """A weight in level steps, clipped to the window, whole where asked; float64, as `cimc.ir.encoding.quantise`."""
    steps = min(max(weight / w_max, -1.0), 1.0) * full
    return np.rint(steps + shift) - shift if whole else steps


@njit(inline="always", error_model="numpy")
def goal_us(steps: float, plane: int, pair: bool, shift: float, step_us: float, g_min_us: float) -> np.float32:
    """Target conductance of one of a weight's devices, µS, float32."""
    digit = (max(steps, 0.0) if plane == 0 else max(-steps, 0.0)) if pair else steps + shift
    return np.float32(g_min_us + digit * step_us)
