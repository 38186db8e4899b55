"""How a layer's inputs become what the word lines apply: codes in phases, each with its digital weight."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import Layer, polarities
from cimc.runtime.atomic import bound
from cimc.runtime.gather import LANES
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, crew, share
from cimc.targets.description import Target

Array = NDArray[Any]

#: How inputs become codes, see `quantise`.
PLAIN, TWO_PHASE, OFFSET = 0, 1, 2
#: Inputs that one thread codes alone.
_FEW = 1 << 13


@kernel(error_model="numpy")
def _quantise(
    first: Scalar, end: Scalar, thread: Scalar, x: Array, gain: Scalar, low: Scalar, high: Scalar, mode: Scalar, out: Array,
    clips: Array,
) -> None:  # fmt: skip
    clipped, x, out = 0, x[first:end], out[:, first:end]
    for i in range(x.size):
        code = np.rint(np.float64(x[i]) * gain)
        clipped += (code > high) | (code < low)
        code = min(max(code, low), high)
        if mode == TWO_PHASE:
            out[0, i] = np.int32(max(code, 0.0))
            out[1, i] = np.int32(max(-code, 0.0))
        elif mode == OFFSET:
            out[0, i] = np.int32(code - low)
        else:
            out[0, i] = np.int32(code)
    clips[thread] += clipped


@kernel()
def _share_quantise(crew: Crew, x: Array, gain: Scalar, low: Scalar, high: Scalar, mode: Scalar, out: Array) -> Scalar:
    clips = np.zeros(crew.helpers + 1, np.int64)
    share(crew, x.size, bound(_quantise, (x, gain, low, high, mode, out, clips)))
    return clips.sum()


def quantise(x: Array, gain: float, low: float, high: float, mode: int, out: Array) -> int:
    """DAC codes of a flat input: ``clip(rint(x * gain), low, high)``.

    Args:
        x: ``[n]``, real.
        gain: Codes per unit of input.
        low: Lowest code.
        high: Highest code.
        mode: PLAIN; TWO_PHASE: positive codes into ``out[0]``, negative ones into ``out[1]``; OFFSET: ``low`` is code 0.
        out: ``[phases, n]``, unsigned, or signed where PLAIN codes may be negative.

    Returns:
        Inputs that were clipped.
    """
    return int(_share_quantise(crew(1 if x.size < _FEW else None), x, gain, low, high, mode, out))


@dataclass(frozen=True)
class Coding:
    """What the target's DAC makes of the layer's inputs. Without a DAC's quantisation they stay real numbers."""

    gain: float
    """Codes per unit of input."""
    mode: int
    """`PLAIN`, `TWO_PHASE` or `OFFSET`."""
    low: float
    high: float
    bits: int | None
    """Of the DAC; None: real numbers."""
    per_bit: bool
    """Whether each input bit is a phase of its own."""
    weights: NDArray[np.float64]
    """Digital weight of each phase."""
    full: float
    """Codes of full scale, ``2**bits``; 1 for real inputs and for single bits."""
    largest: int
    """Largest code that a word line sees."""
    shift: float
    """Code of an input of 0, taken off digitally."""

    @classmethod
    def of(cls, target: Target, layer: Layer) -> Coding:
        """The coding of one layer on one target."""
        bits, gain = target.dac.bits, layer.coding.gain
        if target.is_ideal or bits is None:
            # An ADC takes no negative current: then even real inputs come in two phases.
            two = polarities(layer, target) == 2
            signs = np.array([1.0, -1.0] if two else [1.0])
            return cls(1.0 if target.is_ideal else gain, int(two), 0.0, 0.0, None, False, signs, 1.0, 1, 0.0)
        per_bit = target.adc.conversion == "per_bit"
        weights = np.exp2(np.arange(bits, dtype=np.float64)) if per_bit else np.ones(1)
        full, largest = (1.0, 1) if per_bit else (2.0**bits, 2**bits - 1)
        top, half = 2.0**bits - 1, 2.0 ** (bits - 1)
        mode, low, high, shift = PLAIN, -half, half - 1, 0.0
        if not layer.coding.signed:
            low, high = 0.0, top
        elif polarities(layer, target) == 2:
            mode, low, high, weights = TWO_PHASE, -top, top, np.concatenate([weights, -weights])
        elif target.dac.signed == "bipolar":
            low, high = -top, top
        elif target.dac.signed == "offset":
            mode, shift = OFFSET, half
        else:
            weights[-1] *= -1
        return cls(gain, mode, low, high, bits, per_bit, weights, full, largest, shift)

    @property
    def polarities(self) -> int:
        """Tile operations a position takes."""
        return 2 if self.mode == TWO_PHASE else 1

    def apply(self, x: Array) -> tuple[Array, int]:
        """Codes of contiguous inputs, phases in front, and how many inputs were clipped."""
        if self.bits is None:
            drive = x if self.gain == 1 else x * x.dtype.type(self.gain)
            phases = np.stack([np.maximum(drive, 0), np.maximum(-drive, 0)]) if self.mode == TWO_PHASE else drive[None]
            return phases, 0
        kind: Any = np.uint8 if self.bits <= 8 else np.uint16
        if self.mode == PLAIN and self.low < 0:
            kind = np.int32
        codes = room((self.polarities, x.size), kind)
        clips = quantise(x.reshape(-1), self.gain, self.low, self.high, self.mode, codes)
        if self.per_bit:
            bits = room((self.polarities, self.bits, x.size), np.uint8)
            np.bitwise_and(codes[:, None] >> np.arange(self.bits, dtype=kind)[:, None], 1, out=bits, casting="unsafe")
            codes = bits
        return codes.reshape(self.weights.size, *x.shape), clips


def room(shape: tuple[int, ...], kind: Any) -> Array:
    """An empty array of codes with what `narrow.read` wants behind it."""
    size = prod(shape)
    return np.empty(size + LANES, kind)[:size].reshape(shape)
