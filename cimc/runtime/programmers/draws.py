"""Draws of single writes and pulses in kernels; `cimc.runtime.devices.draws` gives the same of many at once."""

from __future__ import annotations

import numpy as np

from cimc.runtime import rng
from cimc.runtime.jit import kernel


@kernel()
def device_key(seed: int, device: int, number: int) -> int:
    """64-bit key of one write (or pulse) of one device."""
    key: int = rng.mix64(rng.mix64(seed ^ np.uint64(device)) ^ np.uint64(number))
    return key


@kernel()
def draw(key: int, counter: int) -> float:
    """Standard normal draw ``counter`` of a device's key."""
    bits = rng.hash32(np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32)), np.uint32(counter))
    normal: float = rng.normal_of(bits)
    return normal
