"""Writing single devices of a crossbar that is in use: the common part of all writers, and direct writes.

A writer owns nothing: it changes the state of a crossbar's devices and their write counters in place. What it draws is keyed
by chip and layer, device, and the number of the device's write, so the same writes give the same bytes in any grouping; what a
device brings from its birth is its cell's. What a write or a pulse does, the device model says; kernels here and in the other
writers are the built-in model's, compiled.
A device that is stuck from birth, or was used more than ``device.endurance_writes`` times, keeps its conductance; the
controller does not know, so its writes still count. ``device.endurance_unit`` says whether uses are writes or pulses. A direct
write has no number of pulses: where pulses are counted, it adds none, and training with it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.cells import Keys, may_be_stuck, numbered_keys, responses, stuck_us
from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys, device_model, read_variance
from cimc.runtime.devices.programming import GaussianProgramming
from cimc.runtime.jit import kernel
from cimc.targets.description import Target
from cimc.targets.stated import as_known

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

#: Write number above every real one: a device that never wears out.
NO_END = 1 << 62


@dataclass
class Writes:
    """What an update cost. None: not modelled by this writer, or the target gives no figure. Sums with ``+``."""

    updates: int = 0
    """Weights that got a new target."""
    devices: int = 0
    """Device writes; of blind pulses, the pulses."""
    pulses: int | None = 0
    trials: int | None = 0
    """SET-RESET trials."""
    reads: int | None = 0
    """Verify reads."""
    failed: int = 0
    """Writes that ended out of tolerance, as the verify reads saw it."""
    worn: int = 0
    """Writes to devices beyond their endurance."""
    time_ns: float | None = 0.0
    """One device after the other."""
    energy_nj: float | None = 0.0

    def __add__(self, other: Writes) -> Writes:
        theirs: dict[str, Any] = vars(other)
        sums: dict[str, Any] = {n: None if own is None or theirs[n] is None else own + theirs[n] for n, own in vars(self).items()}
        return Writes(**sums)


class Writer(Protocol):
    """Writes chosen devices of one layer; made of what `DeviceState` takes."""

    g_us: F32
    """Flat."""
    writes: U32
    """Flat."""
    device_seed: int
    touched: I64
    """Devices that the last call wrote, by flat numbers."""
    state: State

    def present_us(self) -> F32:
        """What all devices hold now, µS, flat."""

    def read_sigma_us(self, present_us: F32) -> F32:
        """Deviation of one read of each of them, µS, ``[1]`` or flat."""

    def write(self, devices: I64, goal_us: F32) -> Writes:
        """Bring devices (flat numbers into ``g_us``, each at most once, ``[n]``) to their goals (µS, ``[n]``)."""


def device_seed(chip_seed: int, layer: str) -> int:
    """The key of what a layer's writes draw on this chip; writers take it."""
    return rng.key("devices", chip_seed, layer)


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


@kernel()
def _write_gaussian(
    g_us: F32, writes: U32, stuck: NDArray[np.bool_], devices: I64, goal_us: F32, seed: int, mean: float, sigma: float,
    left: I64,
) -> int:  # fmt: skip
    worn = 0
    for i in range(devices.size):
        d = devices[i]
        if left[i] <= 0:
            worn += 1
        elif stuck.size == 0 or not stuck[d]:
            error = mean + sigma * draw(device_key(seed, d, writes[d]), 0)
            g_us[d] = max(goal_us[i] + error, np.float32(0))
        writes[d] += np.uint32(1)
    return worn


class DeviceState:
    """What every writer works on.

    Args:
        target: The chip.
        g_us: The crossbar's conductances, µS, C-contiguous, any shape; changed in place (then tell `Crossbar.written`).
        writes: uint32 counters of the same size, changed in place.
        seed: From `device_seed`.
        keys: Gives the keys of the cells; None: cells of no array, numbered under ``seed``. Unused where ``state`` is given.
        state: The devices' state, whose conductances are ``g_us``, from `Crossbar.state`; None: devices written at time 0.
        pulses: uint32 counters of the same size, changed in place, where endurance counts pulses; None: of new devices.
    """

    def __init__(
        self, target: Target, g_us: F32, writes: U32, seed: int, keys: Keys | None = None, state: State | None = None,
        pulses: U32 | None = None,
    ) -> None:  # fmt: skip
        if not (g_us.flags.c_contiguous and writes.flags.c_contiguous and g_us.size == writes.size):
            raise ValueError("conductances and counters must be contiguous and of one size")
        self.target = as_known(target)
        self.device = self.target.device
        self.g_us, self.writes = g_us.reshape(-1), writes.reshape(-1)
        self.touched = np.zeros(0, np.int64)
        self.device_seed, self.seed = seed, np.uint64(rng.key(seed, "training"))
        if pulses is None and self.device.endurance_unit == "pulses":
            pulses = np.zeros(writes.size, np.uint32)
        self.pulses = None if pulses is None else pulses.reshape(-1)
        self.endurance = NO_END if self.device.endurance_writes is None else self.device.endurance_writes
        self.model: DeviceModel = device_model(self.device)
        if state is None:
            state = State(self.g_us, keys or partial(numbered_keys, seed, self.g_us.size), self.model.arrays(self.g_us, 0.0))
        self.state = state
        self.stuck: NDArray[np.bool_] = np.zeros(0, np.bool_)
        if may_be_stuck(self.device):
            self.stuck = ~np.isnan(stuck_us(self.device, self.state.cells))

    @property
    def compiled(self) -> bool:
        """Whether the kernels of the built-in model do what this chip's device model does."""
        return type(self.model) is Memristor and not self.state.arrays

    def left(self, devices: I64) -> I64:
        """Uses that devices (``[n]``) have left, ``[n]``; below 1: worn."""
        if self.endurance == NO_END:
            return np.full(devices.size, NO_END, np.int64)
        used = self.writes if self.pulses is None else self.pulses
        left: I64 = self.endurance - used[devices].astype(np.int64)
        return left

    def able(self, devices: I64) -> NDArray[np.bool_]:
        """Which devices (``[n]``) still change when they are written: neither stuck nor worn."""
        able: NDArray[np.bool_] = self.left(devices) > 0
        return able & ~self.stuck[devices] if self.stuck.size else able

    def keys_of(self, devices: I64) -> NDArray[np.uint64]:
        """Keys of the next write of devices, ``[n]``."""
        return device_keys(int(self.seed), devices, self.writes[devices])

    def present_us(self) -> F32:
        """What all devices hold now, µS, flat: `g_us` itself where nothing moves it."""
        g_us = self.model.conductance(self.state, self.state.time_s)
        return np.where(self.stuck, self.g_us, g_us) if self.stuck.size and g_us is not self.g_us else g_us

    def read_sigma_us(self, present_us: F32) -> F32:
        """Deviation of one read of devices that hold ``present_us`` (µS, flat): ``[1]``, the same for all, or one each."""
        variance = read_variance(self.model, self.device, self.state, present_us, self.state.time_s)
        return np.full(1, self.device.read_sigma_us, np.float32) if variance is None else np.sqrt(variance)

    def responses(self, spread: float | None) -> F32:
        """Factor of each device's answer to pulses, flat, where devices differ by ``spread``; else no entries."""
        if not spread:
            return np.zeros(0, np.float32)
        factors: F32 = np.maximum(np.float32(1) + np.float32(spread) * responses(self.state.cells), np.float32(0))
        return factors


class GaussianWriter(DeviceState):
    """Each write lands where the device model says, at once: by the built-in model, as ``device.programming`` describes."""

    def write(self, devices: I64, goal_us: F32) -> Writes:
        """See `Writer`."""
        self.touched = devices
        timing, n, left = self.target.timing, devices.size, self.left(devices)
        if isinstance(self.model, Memristor) and self.compiled and isinstance(self.model.programming, GaussianProgramming):
            mean, sigma = self.model.programming.mean_us, self.model.programming.sigma_us
            worn = _write_gaussian(self.g_us, self.writes, self.stuck, devices, goal_us, self.seed, mean, sigma, left)
        else:
            able, worn = self.able(devices), int((left <= 0).sum())
            where = devices[able]
            self.model.write(self.state, where, goal_us[able], self.state.time_s, self.keys_of(where))
            self.writes[devices] += np.uint32(1)
        return Writes(
            devices=n,
            pulses=None,
            trials=None,
            reads=None,
            worn=worn,
            time_ns=None if timing.programming_ns is None else n * timing.programming_ns,
            energy_nj=None if timing.programming_energy_nj is None else n * timing.programming_energy_nj,
        )
