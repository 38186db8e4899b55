"""What programmers work on: the devices of a layer in use, with their faults, their wear and the keys of what they draw.

What a write draws is keyed by chip and layer, device, and the number of the device's write, so the same writes give the same
bytes in any grouping; what a device brings from its birth is its cell's. What a write or a pulse does, the device model says.
A device that is stuck from birth, or was used more than ``device.endurance_writes`` times, keeps its conductance; the
controller does not know, so its writes still count. ``device.endurance_unit`` says whether uses are writes or pulses. A direct
write has no number of pulses: where pulses are counted, it adds none, and training with it is refused.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.cells import Keys, may_be_stuck, numbered_keys, responses, stuck_us
from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys, device_model, normals, read_variance
from cimc.runtime.programmers.report import Report
from cimc.targets.description import Target
from cimc.targets.stated import as_known

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

#: Write number above every real one: a device that never wears out.
NO_END = 1 << 62
#: Direct writes of one write have keys of their own from this number on, but for the first.
_DIRECT = 1 << 31


class DeviceState:
    """The devices of a layer, for programmers and pulses. It owns nothing: it changes arrays and counters in place.

    Args:
        target: The chip.
        g_us: The crossbar's conductances, µS, C-contiguous, any shape; changed in place (then tell `Crossbar.written`).
        writes: uint32 counters of the same size, changed in place.
        seed: From `cimc.runtime.write.device_seed`.
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
        self._responses: dict[float, F32] = {}

    @property
    def compiled(self) -> bool:
        """Whether the kernels of the built-in model do what this chip's device model does."""
        return type(self.model) is Memristor and not self.state.arrays

    def begin(self, devices: I64) -> DeviceWrite:
        """Begin a write of devices (flat numbers, each at most once, ``[n]``), which counts as one for each of them."""
        return DeviceWrite(self, devices)

    def left(self, devices: I64) -> I64:
        """Uses that devices (``[n]``) have left, ``[n]``; below 1: worn."""
        if self.endurance == NO_END:
            return np.full(devices.size, NO_END, np.int64)
        used = self.writes if self.pulses is None else self.pulses
        left: I64 = self.endurance - used[devices].astype(np.int64)
        return left

    def life(self, devices: I64) -> I64:
        """Pulses that still move devices (``[n]``) within one write, ``[n]``: none of a stuck or worn one."""
        left = self.left(devices)
        if self.pulses is None:  # a write is one use, however many pulses it takes
            left = np.where(left > 0, NO_END, 0)
        return np.where(self.stuck[devices], 0, left) if self.stuck.size else left

    def keys_of(self, devices: I64) -> U64:
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
        if spread not in self._responses:
            factors = np.float32(1) + np.float32(spread) * responses(self.state.cells)
            self._responses[spread] = np.maximum(factors, np.float32(0))
        return self._responses[spread]


class DeviceWrite:
    """One write of n devices by a programmer. ``some`` are numbers among the n, each at most once in a call.

    Attributes:
        cells: The devices of the layer.
        devices: Those that are written, flat numbers, ``[n]``.
        pulses: Pulses that each got, ``[n]``: those that did not move a worn or stuck device too.
        reads: Verify reads of each, ``[n]``.
        life: Pulses that still move each, ``[n]``.
    """

    def __init__(self, cells: DeviceState, devices: I64) -> None:
        self.cells, self.devices = cells, devices
        self.pulses, self.reads = np.zeros(devices.size, np.int32), np.zeros(devices.size, np.int32)
        self._left, self.life = cells.left(devices), cells.life(devices)
        self._used, self._direct = np.zeros(devices.size, np.uint32), np.zeros(devices.size, np.uint32)

    @cached_property
    def _keys(self) -> U64:
        return self.cells.keys_of(self.devices)

    @property
    def every(self) -> I64:
        """Numbers of all devices of this write."""
        return np.arange(self.devices.size)

    def read(self, some: I64) -> F32:
        """One verify read of each device, µS, with the noise of ``device.write_verify.verify_sigma_us`` or of any read."""
        cells, where = self.cells, self.devices[some]
        state, time_s = cells.state.at(where), cells.state.time_s
        g_us = cells.model.conductance(state, time_s)
        if cells.stuck.size:
            g_us = np.where(cells.stuck[where], state.g_us, g_us)
        given = cells.device.write_verify.verify_sigma_us
        sigma = np.sqrt(cells.model.read_variance(state, g_us, time_s)) if given is None else given
        self.reads[some] += 1
        read: F32 = (g_us + sigma * normals(self._next(some))).astype(np.float32)
        return read

    def step(self, some: I64, up: NDArray[np.bool_], volt: F32) -> None:
        """One SET (up) or RESET pulse of each device, of amplitude ``volt`` (V); both shaped as ``some``."""
        able = self.pulses[some] < self.life[some]
        moved, keys, cells = some[able], self._next(some)[able], self.cells
        cells.model.step(cells.state, self.devices[moved], up[able], volt[able], cells.state.time_s, keys)
        self.pulses[some] += 1

    def pulse(self, some: I64, up: NDArray[np.bool_]) -> None:
        """One blind pulse of each device, up or down (shaped as ``some``)."""
        able = self.pulses[some] < self.life[some]
        moved, keys, cells = some[able], self._next(some)[able], self.cells
        cells.model.pulse(cells.state, self.devices[moved], up[able], cells.state.time_s, keys)
        self.pulses[some] += 1

    def write(self, some: I64, goal_us: F32) -> None:
        """One direct write of each device to its goal (µS, shaped as ``some``), error included."""
        able = self.life[some] > 0
        moved, cells = some[able], self.cells
        anew = numbered(self._keys[moved], self._direct[moved] + np.uint32(_DIRECT))
        keys = np.where(self._direct[moved] == 0, self._keys[moved], anew)
        cells.model.write(cells.state, self.devices[moved], goal_us[able], cells.state.time_s, keys)
        self._direct[some] += np.uint32(1)

    def report(
        self, success: NDArray[np.bool_] | None = None, trials: NDArray[np.int32] | None = None, *, pulse_ns: float | None = None,
        read_ns: float | None = None, pulse_energy_nj: float | None = None, read_energy_nj: float | None = None,
    ) -> Report:  # fmt: skip
        """End the write, and say what it came to. Time and energy are known where both figures are given.

        Args:
            success: Whether each device ended in tolerance as its reads showed it, ``[n]``; None: nothing was verified.
            trials: SET-RESET trials of each device, ``[n]``; None: there are no trials.
            pulse_ns: Time of a pulse.
            read_ns: Time of a verify read.
            pulse_energy_nj: Energy of a pulse.
            read_energy_nj: Energy of a verify read.
        """
        cells = self.cells
        cells.writes[self.devices] += np.uint32(1)
        if cells.pulses is not None:
            cells.pulses[self.devices] += self.pulses.astype(np.uint32)
        pulses, reads = int(self.pulses.sum(dtype=np.int64)), int(self.reads.sum(dtype=np.int64))

        def total(a_pulse: float | None, a_read: float | None) -> float | None:
            return None if a_pulse is None or a_read is None else pulses * a_pulse + reads * a_read

        over = self._left <= 0
        if cells.pulses is not None:
            over |= self.pulses > self._left
        return Report(
            self.devices.size, success, self.pulses, self.reads, trials, int(over.sum()), total(pulse_ns, read_ns),
            total(pulse_energy_nj, read_energy_nj),
        )  # fmt: skip

    def _next(self, some: I64) -> U64:
        """Keys of the next draw of devices."""
        keys = numbered(self._keys[some], self._used[some])
        self._used[some] += np.uint32(1)
        return keys


def numbered(keys: U64, numbers: U32) -> U64:
    """Key of each draw of a write: ``numbers`` (``[n]``) count the draws that the write has made before."""
    return device_keys(0, keys.view(np.int64), numbers)
