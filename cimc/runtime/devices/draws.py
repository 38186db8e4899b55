"""Keyed draws of many devices at once.

A key has 64 bits. A cell's own key is the same for its whole life; a write or a pulse has a key of its own, from the device's
number and the number of that write. Draw ``counter`` of a key depends on nothing else, so neither the order of writes nor
the split of an array changes a byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.jit import kernel

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]


@kernel()
def _bits(keys: U64, counter: Any, out: NDArray[np.uint32]) -> None:
    for i in range(keys.size):
        out[i] = rng.hash32(np.uint32(keys[i] & np.uint64(0xFFFFFFFF)), np.uint32(keys[i] >> np.uint64(32)), counter)


@kernel()
def _normals(keys: U64, counter: Any, out: F32) -> None:
    for i in range(keys.size):
        low, high = np.uint32(keys[i] & np.uint64(0xFFFFFFFF)), np.uint32(keys[i] >> np.uint64(32))
        out[i] = rng.normal_of(rng.hash32(low, high, counter))


@kernel()
def _device_keys(seed: Any, devices: NDArray[np.int64], numbers: NDArray[np.uint32], out: U64) -> None:
    for i in range(devices.size):
        out[i] = rng.mix64(rng.mix64(seed ^ np.uint64(devices[i])) ^ np.uint64(numbers[i]))


def device_keys(seed: int, devices: NDArray[np.int64], numbers: NDArray[np.uint32]) -> U64:
    """Keys of writes.

    Args:
        seed: Of the chip, the layer and the purpose, from `rng.key`.
        devices: Numbers of the devices, ``[n]``.
        numbers: Number of the write of each device, ``[n]``.

    Returns:
        ``[n]``, as `cimc.runtime.programmers.draws.device_key` gives them one by one.
    """
    out = np.empty(devices.size, np.uint64)
    _device_keys(np.uint64(seed), devices, numbers, out)
    return out


def bits(keys: U64, counter: int) -> NDArray[np.uint32]:
    """32 random bits of each key, shaped as ``keys``."""
    out = np.empty(keys.size, np.uint32)
    _bits(np.ascontiguousarray(keys).reshape(-1), np.uint32(counter), out)
    return out.reshape(keys.shape)


def normals(keys: U64, counter: int = 0) -> F32:
    """Standard normal draw ``counter`` of each key, shaped as ``keys``."""
    out = np.empty(keys.size, np.float32)
    _normals(np.ascontiguousarray(keys).reshape(-1), np.uint32(counter), out)
    return out.reshape(keys.shape)


def uniforms(keys: U64, counter: int = 0) -> F32:
    """Draw ``counter`` of each key, uniform over [0, 1) in steps of 2**-24, shaped as ``keys``."""
    return (bits(keys, counter) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
