"""Write-verify with incremental-step pulses, as Wu et al. program their devices (arXiv 2305.14547).

A read first: in tolerance, nothing is done. Else a trial: SET pulses from ``start_v`` to ``stop_v``, a read after each, until a
read lies above the tolerance; then RESET pulses in the same way until one lies at or below its upper end. In tolerance: done;
below it (over-reset): the next trial. A write fails when its trials are used up.

How far a pulse moves a conductance is not published; the response is an assumption, its figures are the target's::

    dg = +set_us or -reset_us, * 2**((V - start_v) / doubling_v) * (1 + device_spread * n_d) * (1 + cycle_spread * n_c)

with standard normal n_d of the device and n_c of the pulse; a factor below 0 counts as 0, a conductance below 0 too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.devices import DeviceModel, Memristor, device_model
from cimc.runtime.jit import kernel
from cimc.runtime.programmers.access import F32, I64, U32, DeviceState, DeviceWrite
from cimc.runtime.programmers.draws import device_key, draw
from cimc.runtime.programmers.report import Report
from cimc.targets.description import Target

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


class WriteVerify:
    """See `Programmer`.

    Raises:
        TargetError: The target does not describe the pulses.
    """

    def __init__(self, section: Any, target: Target) -> None:
        v = self.figures = target.device.write_verify
        missing = missing_figures(target, device_model(target.device))
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
        self.cycle = np.float32(v.cycle_spread or 0)
        self.sigma_us = np.float32(target.device.read_sigma_us if v.verify_sigma_us is None else v.verify_sigma_us)
        self.tolerance_us = np.float32(tolerance_us)
        self.transfer_trials = int(trials)
        self.training_trials = v.training_trials or self.transfer_trials

    def program(self, cells: DeviceState, devices: I64, goal_us: F32, training: bool) -> Report:
        """See `Programmer`."""
        write, most = cells.begin(devices), self.training_trials if training else self.transfer_trials
        trials, success = np.zeros(devices.size, np.int32), np.zeros(devices.size, np.bool_)
        if cells.compiled:
            _write_verify(
                cells.g_us, cells.writes, write.life, devices, goal_us, cells.seed, cells.responses(self.figures.device_spread),
                self.set_us, self.reset_us, self.cycle, self.sigma_us, self.tolerance_us, most,
                write.pulses, write.reads, trials, success,
            )  # fmt: skip
        else:
            self._by_model(write, goal_us, most, trials, success)
        v = self.figures
        return write.report(
            success, trials, pulse_ns=v.pulse_ns, read_ns=v.verify_ns, pulse_energy_nj=v.pulse_energy_nj,
            read_energy_nj=v.verify_energy_nj,
        )  # fmt: skip

    def _by_model(
        self, write: DeviceWrite, goal_us: F32, most: int, trials: NDArray[np.int32], success: NDArray[np.bool_]
    ) -> None:
        """The same as the kernel, for all devices at once: each step is one pulse of those that still take part."""
        last, tolerance, every = np.zeros(goal_us.size, np.float32), self.tolerance_us, write.every

        def train(some: I64, up: bool) -> None:
            last[some] = write.read(some)
            for volt in self.volts:
                some = some[(last[some] > goal_us[some] + tolerance) != up]
                if not some.size:
                    return
                write.step(some, np.full(some.size, up), np.full(some.size, volt, np.float32))
                last[some] = write.read(some)

        last[every] = write.read(every)
        for _ in range(most):
            some = every[np.abs(last - goal_us) > tolerance]
            if not some.size:
                break
            trials[some] += 1
            train(some, True)
            train(some, False)
        success[:] = np.abs(last - goal_us) <= tolerance


def missing_figures(target: Target, model: DeviceModel) -> list[str]:
    """Figures of ``device.write_verify`` that write-verify needs and the target does not give."""
    names = ["start_v", "stop_v", "step_v", "set_us", "reset_us", "tolerance_us", "trials"]
    if not isinstance(model, Memristor):  # such a model has steps of its own
        names = [name for name in names if name not in ("set_us", "reset_us")]
    return [name for name in names if getattr(target.device.write_verify, name) is None]
