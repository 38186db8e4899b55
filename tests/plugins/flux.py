"""Parts from outside, as a user has them in a file: a device with linear pulses and decay, an error, a drift, a read noise."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

import cimc
from cimc.devices import (
    Device,
    DriftSection,
    ProgrammerSection,
    ProgrammingSection,
    ReadNoiseSection,
    State,
    WeightCode,
    Weights,
    normals,
    uniforms,
)


class Flux:
    """No subclass of anything; it keeps the time of the last write and how often each device was written."""

    class Section(Device):
        kind: Literal["flux"] = "flux"
        share: float = Field(0.02, ge=0, le=1, description="Error of a write as a share of the goal.")
        life_s: float = Field(1e5, gt=0, le=1e12, description="Time over which a conductance decays to 1/e of it.")
        step_us: float = Field(0.5, gt=0, le=1e3, description="Step of a pulse.")

    def __init__(self, device: Flux.Section) -> None:
        self.device = device

    def arrays(self, g_us: Any, time_s: float) -> dict[str, Any]:
        return {"written_s": np.full(g_us.shape, time_s), "times": np.ones(g_us.shape, np.uint16)}

    def birth(self, cells: Any) -> Any:
        low, high = self.device.g_min_us, self.device.g_max_us
        return (np.float32(low) + np.float32(high - low) * uniforms(cells, 1)).astype(np.float32)

    def write(self, state: State, where: Any, goal_us: Any, time_s: float, keys: Any) -> None:
        self._hold(state, where, goal_us * (1 + self.device.share * normals(keys)), time_s)

    def pulse(self, state: State, where: Any, up: Any, time_s: float, keys: Any) -> None:
        step = np.where(up, self.device.step_us, -self.device.step_us) * (1 + 0.1 * normals(keys))
        self._hold(state, where, self.conductance(state.at(where), time_s) + step, time_s)

    def step(self, state: State, where: Any, up: Any, volt: Any, time_s: float, keys: Any) -> None:
        step = np.where(up, 1, -1) * volt * self.device.step_us * (1 + 0.1 * normals(keys))
        self._hold(state, where, self.conductance(state.at(where), time_s) + step, time_s)

    def conductance(self, state: State, time_s: float) -> Any:
        return (state.g_us * np.exp((state.arrays["written_s"] - time_s) / self.device.life_s)).astype(np.float32)

    def read_variance(self, state: State, g_us: Any, time_s: float) -> Any:
        return (0.01 * g_us).astype(np.float32) ** 2

    def _hold(self, state: State, where: Any, g_us: Any, time_s: float) -> None:
        state.g_us[where] = np.maximum(g_us, 0)
        state.arrays["written_s"][where] = time_s
        state.arrays["times"][where] += 1


class Lognormal:
    class Section(ProgrammingSection):
        kind: Literal["lognormal"] = "lognormal"
        spread: float = Field(0.05, ge=0, le=1, description="Deviation of the logarithm.")

        @property
        def mean_us(self) -> float:
            return 0.0

        @property
        def sigma_us(self) -> float:
            return self.spread * 20

        def error_us(self, goal_us: Any) -> Any:
            goal, growth = np.asarray(goal_us, np.float64), np.exp(self.spread**2 / 2)
            return goal * (growth - 1), goal * growth * np.sqrt(np.exp(self.spread**2) - 1)

    def __init__(self, section: Lognormal.Section) -> None:
        self.spread = section.spread

    def write(self, goal_us: Any, keys: Any) -> Any:
        return (goal_us * np.exp(self.spread * normals(keys))).astype(np.float32)


class Halving:
    """Drift by a half for each time ``half_life_s``."""

    needs_goal = False

    class Section(DriftSection):
        kind: Literal["halving"] = "halving"
        half_life_s: float = Field(1e6, gt=0, le=1e12, description="Time after which half is left.")

    def __init__(self, section: Halving.Section) -> None:
        self.half_life_s = section.half_life_s

    def conductance(self, written_us: Any, goal_us: Any, age_s: Any, cells: Any, writes: Any) -> Any:
        return (written_us * 0.5 ** (age_s / self.half_life_s)).astype(np.float32)


class Shot(ReadNoiseSection):
    """Variance in proportion to the conductance."""

    kind: Literal["shot"] = "shot"
    charge_us: float = Field(0.1, ge=0, le=1e3, description="Variance over conductance.")

    def variance_us2(self, g_us: Any, written_us: Any, age_s: Any) -> Any:
        return self.charge_us * np.asarray(g_us, np.float64) + 0 * np.asarray(age_s)


class Halfway:
    """Direct writes with a read after each, until the read lies within ``near_us`` of the goal."""

    class Section(ProgrammerSection):
        kind: Literal["halfway"] = "halfway"
        near_us: float = Field(1.5, gt=0, le=1e3, description="How close a read must come to the goal.")
        tries: int = Field(20, ge=1, le=100, description="Most writes of a device.")

    def __init__(self, section: Halfway.Section, target: Any) -> None:
        self.section = section

    def program(self, cells: Any, devices: Any, goal_us: Any, training: bool) -> Any:
        write, section = cells.begin(devices), self.section
        read = write.read(write.every)
        for _ in range(section.tries):
            some = np.flatnonzero(np.abs(read - goal_us) > section.near_us)
            write.write(some, goal_us[some])
            read[some] = write.read(some)
        return write.report(np.abs(read - goal_us) <= section.near_us)


class Centred(WeightCode):
    """Two devices a weight, both near the middle of the window: ``w = g1 - g2`` with ``g1 + g2`` constant."""

    class Section(Weights):
        representation: Literal["centred"] = "centred"

        @property
        def columns_per_weight(self) -> int:
            return 2

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.whole = target.device.levels is not None
        self.full, self.shift, self.alpha, self.transposed_signs = float(self.base - 1), 0.0, (1.0, -1.0), (1.0, -1.0)

    def encode(self, steps: Any) -> Any:
        plus = (self.base - 1 + steps) / 2
        plus = np.ceil(plus) if self.whole else plus
        return np.stack([plus, plus - steps], axis=2)


cimc.register_device(Flux, "flux")
cimc.register("programming", "lognormal", Lognormal)
cimc.register("drift", "halving", Halving)
cimc.register("read_noise", "shot", Shot)
cimc.register("programmer", "halfway", Halfway)
cimc.register("weight_code", "centred", Centred)
