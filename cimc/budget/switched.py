"""A layer of a chip with only a part of each cause of its errors; the draws are those of the chip.

Conductances are those of `cimc.budget.deviations`. Read noise and the noise of a conversion are one draw, whose deviation
follows what is kept. Inputs are coded as on the chip, and what the code has lost is multiplied exactly and added. The code of a
current is the exact current and the kept part of what rounding and the ends of the range make of it. Reads are computed in NumPy,
but where nothing but the devices and the inputs has errors the product of the weights that the devices stand for, and where
conversions are those of the chip its own backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.budget.causes import OF_CONVERSIONS, Kept
from cimc.budget.deviations import Deviations
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.runtime import rng
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.backends.interface import Handle
from cimc.runtime.backends.reference import ReferenceRead
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.jit import kernel
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.rng import Scalar
from cimc.runtime.slow_noise import SlowRead
from cimc.runtime.unfold import Unfolding
from cimc.targets.load import load_target

Array = NDArray[Any]
F64 = NDArray[np.float64]

#: Entries of the row vectors and currents that one read holds at a time, about.
_ROOM = 1 << 22


@kernel(fastmath={"contract"})
def _normals_of_lines(low: Array, high: Array, first: Scalar, out: Array) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = rng.normal_of(rng.hash32(low[i], high[i], np.uint32(first + np.uint32(j))))


@dataclass
class SwitchedRead(ReferenceRead):
    """A read whose conversions keep a part of their rounding and of their saturation.

    Noise may not take an unsigned code below 0. That belongs to the noise, as no current without noise is negative.
    """

    step: float
    saturation: float

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """As `Handle.read`, some images at a time."""
        rows, lines = max(np.diff(self.spec.row_cuts)), self.spec.g_us.shape[2] * self.spec.g_us.shape[3]
        some = max(1, _ROOM // max(1, where.positions * int(rows + 2 * lines)))
        return sum(
            super(SwitchedRead, self).read(
                codes[:, n : n + some], where, seed, first_image + n, factor, constant, y[n * strides[0] :], strides
            )
            for n in range(0, codes.shape[1], some)
        )

    def _normals(self, keys: Any, first: int, count: int) -> Array:
        low, high = keys
        out = np.empty((low.size, count), np.float32)
        _normals_of_lines(low.reshape(-1), high.reshape(-1), np.uint32(first & 0xFFFFFFFF), out)
        return out.reshape(*low.shape[:2], count)

    def _code(self, current: F64) -> tuple[F64, int]:
        spec = self.spec
        if not spec.low_code and (spec.sigma_lsb or spec.read_sigma_us or spec.variance_us2 is not None or spec.errors):
            current = np.maximum(current, 0)
        code, beyond = super()._code(current)
        if self.step == self.saturation == 1:
            return code, beyond
        inside = np.clip(current, spec.low_code, spec.top_code)
        return current + self.saturation * (inside - current) + self.step * (code - inside), beyond


class SwitchedLayer(Crossbar):
    """One layer of a chip.

    Args:
        own: The layer on the chip, which stays as it is.
        deviations: Of each of its copies.
        kept: Part of each cause that is kept.
    """

    def __init__(self, own: Crossbar, deviations: Sequence[Deviations], kept: Kept) -> None:
        super().__init__(
            own.layer, own.matrix, own.weight_max, own.target, own.chip_seed, own.copies, own.cells, own.time_s,
            adc_range_ua=own.adc_range_ua, backend=own.backend,
        )  # fmt: skip
        self._own, self._deviations, self._kept = own, deviations, kept
        self._seen = tuple(copy.devices(kept) for copy in deviations)
        ideal = load_target("ideal")
        self._exact = Crossbar(own.layer, self.weights(), own.weight_max, ideal)

    @property
    def held(self) -> tuple[Devices, ...]:
        return self._own.held

    @property
    def effective(self) -> tuple[Devices, ...]:
        return self._seen

    def read_spec(self, copy: int = 0) -> ReadSpec:
        """See `Crossbar.read_spec`."""
        spec, kept = super().read_spec(copy), self._kept
        read = kept.get("read noise", 1.0)
        g_us, unit_g_us, grid = spec.g_us, spec.unit_g_us, spec.grid.finest
        if read == 1 and kept.get("programming error", 1.0) == 1:
            # The kernels round conductances to a grid, by far less than this noise.
            own, grid = self._own.read_spec(copy), spec.grid
            if spec.coding.bits is not None:
                g_us = g_us + (grid.rounded(own.g_us) - own.g_us).astype(np.float32)
                unit_g_us = unit_g_us + (grid.rounded(own.unit_g_us) - own.unit_g_us).astype(np.float32)
        if self.target.adc.conversion == "per_bit" and self.target.adc.pair_read == "separate":
            # Rounding takes off what g_min leaks into a line; exact currents must lack it.
            leak = np.float32((1 - kept.get("ADC step", 1.0)) * self.target.device.g_min_us)
            g_us, unit_g_us = g_us - leak, unit_g_us - leak
        variances = (
            None if variance is None else np.float32(read**2) * variance
            for variance in (spec.variance_us2, spec.unit_variance_us2)
        )
        variance_us2, unit_variance_us2 = variances
        return replace(
            spec, g_us=g_us, unit_g_us=unit_g_us, variance_us2=variance_us2, unit_variance_us2=unit_variance_us2,
            read_sigma_us=spec.read_sigma_us * read, sigma_lsb=spec.sigma_lsb * kept.get("ADC noise", 1.0),
            errors=_part(spec.errors, kept.get("ADC mismatch", 1.0)), grid=grid,
        )  # fmt: skip

    def handle(self, spec: ReadSpec, positions: int) -> Handle:
        """See `Crossbar.handle`."""
        step, saturation = (self._kept.get(cause, 1.0) for cause in ("ADC step", "ADC saturation"))
        slow, read = self.target.device.slow_noise, self._kept.get("read noise", 1.0)

        def prepare(now: ReadSpec) -> Handle:
            if step == saturation == 1 and now.grid != now.grid.finest:
                return self.backend.prepare(now, positions)
            return SwitchedRead(now, step, saturation)

        if slow is None or not read:
            return prepare(spec)
        part = slow.model_copy(update={"sigma_us": slow.sigma_us * read, "relative": slow.relative * read})
        return SlowRead(spec, part, prepare)

    def multiply(
        self,
        x: Array,
        geometry: Dense | Conv | ConvTranspose,
        seed_key: int,
        first_image: int = 0,
        scale: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """See `Crossbar.multiply`."""
        step, clip = (self._kept.get(cause, 1.0) for cause in ("DAC step", "DAC clipping"))
        if all(self._kept.get(cause, 1.0) == 0 for cause in OF_CONVERSIONS):
            seen = x if self._coding.bits is None else x - self._lost(x, step, clip)
            return self._exact.multiply(seen, geometry, seed_key, first_image, scale, offset)
        y = super().multiply(x, geometry, seed_key, first_image, scale, offset)
        if self._coding.bits is None or step == clip == 1:
            return y
        return y + self._exact.multiply(self._lost(x, 1 - step, 1 - clip), geometry, seed_key, first_image, scale)

    def _lost(self, x: Array, step: float, clip: float) -> Array:
        """Parts of what codes do not show of the inputs: of their rounding, and of what is clipped."""
        c = self._coding
        drive = x.astype(np.float64) * c.gain
        inside = np.clip(drive, c.low, c.high)
        lost: Array = (step * (inside - np.rint(inside)) + clip * (drive - inside)) / c.gain
        return lost.astype(x.dtype)

    def _set_shift(self) -> None:
        if self._coding.shift:
            self._shift = self._deviations[0].goal_sums(self._kept) * self._coding.shift / self._coding.gain


def _part(errors: ColumnErrors | None, kept: float) -> ColumnErrors | None:
    """A part of what converters deviate."""
    if errors is None or kept == 0:
        return None
    e, kept32 = errors, np.float32(kept)
    return ColumnErrors(
        1 + (e.gain - 1) * kept32, e.offset_lsb * kept32, e.bow_lsb * kept32, 1 + (e.slope - 1) * kept, e.intercept * kept
    )
