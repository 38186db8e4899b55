"""A target's device as pictures, simulated with its own model: what writes leave, how it drifts, what reads and pulses do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cimc.report.pictures import Line, Picture
from cimc.runtime.devices import DeviceModel, State, device_keys, device_model
from cimc.targets.description import Target

F64 = NDArray[np.float64]

_DEVICES, _TRAINS = 4000, 300
#: Shares of devices: lowest tenth, median, highest tenth.
_SHARES = (0.1, 0.5, 0.9)
_DAY_S = 86400.0
_AGES_S = np.geomspace(1.0, 3.15e8, 40)


@dataclass(frozen=True)
class Level:
    """Devices that were written to one goal, in µS."""

    goal_us: float
    mean_us: float
    sigma_us: float
    read_sigma_us: float
    day_mean_us: float
    day_sigma_us: float


class Simulated:
    """Many devices of a target, without stuck ones; direct writes, whatever the programmer.

    Args:
        target: The chip.
        seed: Of the draws.
    """

    def __init__(self, target: Target, seed: int = 0) -> None:
        self.device, self.seed = target.device, seed
        self.model: DeviceModel = device_model(target.device)

    def written(self, goal_us: float, count: int = _DEVICES) -> State:
        """Devices right after a write; the draws are the same for each goal."""
        every = np.arange(count)
        cells = device_keys(self.seed, every, np.zeros(count, np.uint32))
        g_us = np.full(count, goal_us, np.float32)
        state = State(g_us, lambda: cells, self.model.arrays(g_us, 0.0))
        self.model.write(
            state, every, np.full(count, goal_us, np.float32), 0.0, device_keys(self.seed + 1, every, np.ones(count, np.uint32))
        )
        return state

    def held(self, state: State, age_s: float) -> F64:
        """What devices hold at an age, µS, ``[n]``."""
        return np.asarray(self.model.conductance(state, age_s), np.float64)

    def read_sigma(self, state: State, age_s: float) -> float:
        """Deviation of a read of such devices, root mean square, µS."""
        held = self.model.conductance(state, age_s)
        return float(np.sqrt(np.mean(self.model.read_variance(state, held, age_s))))

    def level(self, goal_us: float) -> Level:
        """Statistics at one goal."""
        state = self.written(goal_us)
        now, day = self.held(state, 0.0), self.held(state, _DAY_S)
        return Level(
            goal_us, float(now.mean()), float(now.std()), self.read_sigma(state, 0.0), float(day.mean()), float(day.std())
        )

    @property
    def goals_us(self) -> F64:
        """The levels of the device where there are few, else five conductances over the window."""
        d = self.device
        count = d.levels if d.levels is not None and d.levels <= 8 else 5
        return np.linspace(d.g_min_us, d.g_max_us, count)


def pictures_of_device(target: Target) -> list[Picture]:
    """Level distributions, error, read noise, drift and pulse curves, as far as the target describes them."""
    simulated = Simulated(target)
    d = target.device
    fine = [simulated.level(goal) for goal in np.linspace(d.g_min_us, d.g_max_us, 33)]
    goals = np.array([one.goal_us for one in fine])
    found = [_distributions(simulated), _errors(fine, goals)]
    if any(one.read_sigma_us for one in fine):
        noise = [Line("right after the write", goals, np.array([one.read_sigma_us for one in fine]))]
        if d.read_noise is not None:
            later = np.array([simulated.read_sigma(simulated.written(goal), _DAY_S) for goal in goals])
            noise.append(Line("after a day", goals, later))
        about = "Deviation of one read of one device; every conversion draws it anew."
        found.append(Picture("Read noise", "conductance, µS", "deviation, µS", noise, about))
    if d.drift is not None:
        found.append(_drift(simulated))
    if d.pulse.up_us is not None and d.pulse.down_us is not None:
        found.append(_pulses(simulated))
    return found


def _distributions(simulated: Simulated) -> Picture:
    d = simulated.device
    window = d.g_max_us - d.g_min_us
    lines = []
    for goal in simulated.goals_us:
        held = simulated.held(simulated.written(goal), 0.0)
        wide = max(4 * float(held.std()), 0.01 * window)
        edges = np.linspace(max(float(held.mean()) - wide, 0.0), float(held.mean()) + wide, 41)
        density, _ = np.histogram(held, edges, density=True)
        lines.append(Line(f"goal {goal:.4g} µS", (edges[:-1] + edges[1:]) / 2, density.astype(np.float64)))
    about = f"What {_DEVICES} devices hold right after a direct write to each goal."
    return Picture("Level distributions", "conductance, µS", "density, 1/µS", lines, about)


def _errors(fine: list[Level], goals: F64) -> Picture:
    mean = np.array([one.mean_us for one in fine]) - goals
    sigma = np.array([one.sigma_us for one in fine])
    lines = [Line("mean", goals, mean), Line("deviation", goals, sigma)]
    return Picture(
        "Programming error", "goal, µS", "written - goal, µS", lines, "Of a direct write; conductances below 0 become 0."
    )


def _drift(simulated: Simulated) -> Picture:
    lines = []
    for goal in simulated.goals_us:
        state = simulated.written(goal, 1000)
        low, middle, high = np.quantile([simulated.held(state, age) for age in _AGES_S], _SHARES, axis=1)
        lines.append(Line(f"goal {goal:.4g} µS", _AGES_S, middle, low, high))
    about = "Median, and the band of the middle 80 % of devices; without drift compensation."
    return Picture("Drift", "time since the write, s", "conductance, µS", lines, about, log_x=True)


def _pulses(simulated: Simulated) -> Picture:
    d = simulated.device
    up, down = d.pulse.up_us or 1.0, d.pulse.down_us or 1.0
    count = int(np.clip(2 * (d.g_max_us - d.g_min_us) / min(up, down), 20, 400))
    every = np.arange(_TRAINS)
    state = simulated.written(d.g_min_us, _TRAINS)
    state.g_us[:] = d.g_min_us
    held = [state.g_us.astype(np.float64)]
    for number in range(2 * count):
        keys = device_keys(simulated.seed + 2, every, np.full(_TRAINS, number, np.uint32))
        simulated.model.pulse(state, every, np.full(_TRAINS, number < count), 0.0, keys)
        held.append(simulated.held(state, 0.0))
    low, middle, high = np.quantile(held, _SHARES, axis=1)
    line = Line("devices", np.arange(2 * count + 1, dtype=np.float64), middle, low, high)
    about = f"{count} up pulses, then {count} down pulses: median, and the band of the middle 80 % of {_TRAINS} devices."
    return Picture("Blind pulses", "pulse", "conductance, µS", [line], about)
