"""Write-verify with incremental-step pulses, as Wu et al. program their devices (arXiv 2305.14547).

A read first: in tolerance, nothing is done. Else a trial: SET pulses from ``start_v`` to ``stop_v``, a read after each, until a
read lies above the tolerance; then RESET pulses in the same way until one lies at or below its upper end. In tolerance: done;
below it (over-reset): the next trial. A write fails when its trials are used up.

How far a pulse moves a conductance is not published; the response is an assumption, its figures are the target's::

    dg = +set_us or -reset_us, * 2**((V - start_v) / doubling_v) * (1 + device_spread * n_d) * (1 + cycle_spread * n_c)

with standard normal n_d of the device and n_c of the pulse; a factor below 0 counts as 0, a conductance below 0 too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.cells import Keys
from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys, normals
from cimc.runtime.jit import kernel
from cimc.runtime.write import F32, I64, NO_END, U32, DeviceState, Writes, device_key, draw
from cimc.targets.description import Target, WriteVerify

_F0, _F1 = np.float32(0), np.float32(1)


@kernel()
def _train(
    g: float, goal: float, sign: float, steps: F32, left: int, cycle: float, sigma: float, tolerance: float, key: int, used: int
) -> tuple[float, float, int, int]:
    """One train of pulses from conductance ``g``, of which ``left`` move it: conductance, last read, pulses, draws used."""
    read = g + sigma * draw(key, used)
    used += 1
    pulses = 0
    while pulses < steps.size and (read > goal + tolerance) == (sign < 0):
        if pulses < left:
            g = max(g + sign * steps[pulses] * max(_F1 + cycle * draw(key, used), _F0), _F0)
        read = g + sigma * draw(key, used + 1)
        used += 2
        pulses += 1
    return g, read, pulses, used


@kernel(error_model="numpy")
def _write_verify(
    g_us: F32, writes: U32, life: I64, devices: I64, goal_us: F32, seed: int, response: F32,
    set_us: F32, reset_us: F32, cycle: float, sigma: float, tolerance: float, most_trials: int,
    pulses: NDArray[np.int32], reads: NDArray[np.int32], trials: NDArray[np.int32], success: NDArray[np.bool_],
) -> None:  # fmt: skip
    for i in range(devices.size):
        d, goal = devices[i], goal_us[i]
        key = device_key(seed, d, writes[d])
        own = response[d] if response.size > 0 else _F1
        g = g_us[d]
        read = g + sigma * draw(key, 0)
        used = 1
        reads[i] += 1
        while abs(read - goal) > tolerance and trials[i] < most_trials:
            trials[i] += 1
            g, read, n, used = _train(g, goal, _F1, set_us * own, life[i] - pulses[i], cycle, sigma, tolerance, key, used)
            pulses[i] += n
            reads[i] += n + 1
            g, read, n, used = _train(g, goal, -_F1, reset_us * own, life[i] - pulses[i], cycle, sigma, tolerance, key, used)
            pulses[i] += n
            reads[i] += n + 1
        success[i] = abs(read - goal) <= tolerance
        g_us[d] = g
        writes[d] += np.uint32(1)


@dataclass(frozen=True)
class Verified:
    """What write-verify did with each of n devices, all ``[n]``."""

    g_us: F32
    """Conductances held after the write, µS."""
    pulses: NDArray[np.int32]
    reads: NDArray[np.int32]
    trials: NDArray[np.int32]
    success: NDArray[np.bool_]
    """The last verify read lay in tolerance."""
    worn: int

    def writes(self, figures: WriteVerify) -> Writes:
        """Totals; time and energy by the target's figures, None where one is missing."""
        pulses, reads = int(self.pulses.sum()), int(self.reads.sum())

        def total(a_pulse: float | None, a_read: float | None) -> float | None:
            return None if a_pulse is None or a_read is None else pulses * a_pulse + reads * a_read

        return Writes(
            devices=self.success.size,
            pulses=pulses,
            trials=int(self.trials.sum()),
            reads=reads,
            failed=int((~self.success).sum()),
            worn=self.worn,
            time_ns=total(figures.pulse_ns, figures.verify_ns),
            energy_nj=total(figures.pulse_energy_nj, figures.verify_energy_nj),
        )


class VerifyWriter(DeviceState):
    """Writes pulse by pulse; arguments as of `DeviceState`.

    Raises:
        TargetError: The target does not describe the pulses.
    """

    def __init__(
        self, target: Target, g_us: F32, writes: U32, seed: int, training: bool = True, keys: Keys | None = None,
        state: State | None = None, pulses: U32 | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, g_us, writes, seed, keys, state, pulses)
        v = target.device.write_verify
        missing = missing_figures(target, self.model)
        if missing:
            raise TargetError(
                f"write-verify needs figures that this chip does not give: {', '.join(missing)}",
                where=f"target {target.name}, device.write_verify",
                fix=f"--set device.write_verify.{missing[0]}=..., or --set update.programming=gaussian",
            )
        given = v.start_v, v.stop_v, v.step_v, v.tolerance_us, v.trials
        start_v, stop_v, step_v, tolerance_us, trials = (value or 0.0 for value in given)
        self.volts = start_v + step_v * np.arange(int((stop_v - start_v) / step_v + 1e-6) + 1)
        growth = 2 ** ((self.volts - start_v) / v.doubling_v) if v.doubling_v else np.ones_like(self.volts)
        self.set_us = ((v.set_us or 0.0) * growth).astype(np.float32)
        self.reset_us = ((v.reset_us or 0.0) * growth).astype(np.float32)
        self.cycle, self.response = np.float32(v.cycle_spread or 0), self.responses(v.device_spread)
        self.sigma_us = np.float32(target.device.read_sigma_us if v.verify_sigma_us is None else v.verify_sigma_us)
        self.tolerance_us = np.float32(tolerance_us)
        self.trials = (v.training_trials if training else None) or int(trials)

    def verify(self, devices: I64, goal_us: F32) -> Verified:
        """Write, and say what each device (flat numbers, each at most once) took."""
        pulses, reads, trials = (np.zeros(devices.size, np.int32) for _ in range(3))
        success = np.zeros(devices.size, np.bool_)
        left = self.left(devices)
        if self.pulses is None:  # a write is one use, however many pulses it takes
            left = np.where(left > 0, NO_END, 0)
        life = np.where(self.stuck[devices], 0, left) if self.stuck.size else left
        if self.compiled:
            _write_verify(
                self.g_us, self.writes, life, devices, goal_us, self.seed, self.response,
                self.set_us, self.reset_us, self.cycle, self.sigma_us, self.tolerance_us, self.trials,
                pulses, reads, trials, success,
            )  # fmt: skip
        else:
            self._verify_by_model(devices, goal_us, life, pulses, reads, trials, success)
        if self.pulses is not None:
            self.pulses[devices] += pulses.astype(np.uint32)
        worn = int(((left <= 0) | (pulses > left)).sum())
        return Verified(self.g_us[devices], pulses, reads, trials, success, worn)

    def _verify_by_model(
        self, devices: I64, goal_us: F32, life: I64, pulses: NDArray[np.int32], reads: NDArray[np.int32],
        trials: NDArray[np.int32], success: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """The same as the kernel, for all devices at once: each step is one pulse of those that still take part."""
        keys = self.keys_of(devices)
        used, last = np.zeros(devices.size, np.uint32), np.zeros(devices.size, np.float32)
        tolerance, every = self.tolerance_us, np.arange(devices.size)

        def read(some: I64) -> None:
            last[some] = self._read(devices[some], numbered(keys[some], used[some]))
            used[some] += np.uint32(1)
            reads[some] += 1

        def train(some: I64, up: bool) -> None:
            read(some)
            for volt in self.volts:
                some = some[(last[some] > goal_us[some] + tolerance) != up]
                if not some.size:
                    return
                moved = some[pulses[some] < life[some]]
                each = np.full(moved.size, up), np.full(moved.size, volt, np.float32)
                self.model.step(self.state, devices[moved], *each, self.state.time_s, numbered(keys[moved], used[moved]))
                used[some] += np.uint32(1)
                pulses[some] += 1
                read(some)

        read(every)
        for _ in range(self.trials):
            some = every[np.abs(last - goal_us) > tolerance]
            if not some.size:
                break
            trials[some] += 1
            train(some, True)
            train(some, False)
        success[:] = np.abs(last - goal_us) <= tolerance
        self.writes[devices] += np.uint32(1)

    def _read(self, devices: I64, keys: NDArray[np.uint64]) -> F32:
        """One verify read of each device, µS, ``[n]``."""
        state, time_s = self.state.at(devices), self.state.time_s
        g_us = self.model.conductance(state, time_s)
        if self.stuck.size:
            g_us = np.where(self.stuck[devices], state.g_us, g_us)
        given = self.device.write_verify.verify_sigma_us
        sigma = np.sqrt(self.model.read_variance(state, g_us, time_s)) if given is None else given
        read: F32 = (g_us + sigma * normals(keys)).astype(np.float32)
        return read

    def write(self, devices: I64, goal_us: F32) -> Writes:
        """See `Writer`."""
        self.touched = devices
        return self.verify(devices, goal_us).writes(self.device.write_verify)


def numbered(keys: NDArray[np.uint64], numbers: U32) -> NDArray[np.uint64]:
    """Key of each draw of a write: ``numbers`` (``[n]``) count the draws that the write has made before."""
    return device_keys(0, keys.view(np.int64), numbers)


def missing_figures(target: Target, model: DeviceModel) -> list[str]:
    """Figures of ``device.write_verify`` that write-verify needs and the target does not give."""
    names = ["start_v", "stop_v", "step_v", "set_us", "reset_us", "tolerance_us", "trials"]
    if not isinstance(model, Memristor):  # such a model has steps of its own
        names = [name for name in names if name not in ("set_us", "reset_us")]
    return [name for name in names if getattr(target.device.write_verify, name) is None]
