"""The random numbers of a read in NumPy: the generator of `cimc.runtime.rng` and its keys, written a second time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

#: Coefficients of the quantile, see `cimc.runtime.rng`.
_LOGARITHM = (10.0955518508, -0.1773065811, 0.0910718453, -0.0137012793)
_QUANTILE = (3.7651300529, 1.9966250814, -0.4460240400, 0.1920948911, -0.1092366383, -0.0953852600, 0.1374857939)


def line_keys(seed: int, first_image: int, images: int, positions: int) -> tuple[U32, U32]:
    """Halves of the noise keys of all positions, each ``[images, positions, 1]``."""
    low, high = np.empty((2, images, positions, 1), np.uint32)
    counters = np.arange(positions, dtype=np.uint32)[:, None]
    for image in range(images):
        key = _mix64(_mix64(seed & (2**64 - 1)) ^ (first_image + image) & (2**64 - 1))
        a, b = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
        low[image], high[image] = _hash32(a, b, counters), _hash32(b, a, counters)
    return low, high


def normals(keys: tuple[U32, U32], first: int, count: int) -> NDArray[np.float64]:
    """Standard normal draws of lines ``first`` to ``first + count``, ``[images, positions, count]``."""
    counters = ((first + np.arange(count)) & 0xFFFFFFFF).astype(np.uint32)
    return _normal_of(_hash32(*keys, counters)).astype(np.float64)


def _mix64(value: int) -> int:
    mask = 2**64 - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def _hash32(low: Any, high: Any, counter: U32) -> U32:
    with np.errstate(over="ignore"):
        h = counter * np.uint32(0x9E3779B1) + low
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        h = h ^ high
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        mixed: U32 = h ^ (h >> np.uint32(16))
    return mixed


def _normal_of(bits: U32) -> NDArray[np.float32]:
    x = bits.view(np.int32).astype(np.float32) * np.float32((1 - 2.0**-24) * 2.0**-31)
    y = (np.float32(1) - x * x).view(np.uint32)
    m = ((y & np.uint32(0x007FFFFF)) | np.uint32(0x3F800000)).view(np.float32).astype(np.float64)
    l0, l1, l2, l3 = _LOGARITHM
    v = y.view(np.int32) * (-(2.0**-23) / 11.55) + l0 + m * l1 + m * m * (l2 + m * l3)
    quantile: NDArray[np.float32] = (x * np.polynomial.polynomial.polyval(v, _QUANTILE)).astype(np.float32)
    return quantile
