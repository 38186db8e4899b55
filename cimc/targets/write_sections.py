"""How pulses move a device: the sections of write-verify and of blind pulses."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cimc.targets.section import Section


class WriteVerify(Section):
    """Incremental-step pulses with a read after each. A pulse moves a conductance by its first step, times 2 for each
    ``doubling_v`` above ``start_v``, times the device's own factor and a factor drawn for the pulse. null: not known; then
    only what needs the figure is refused, or not reported.
    """

    start_v: float | None = Field(None, gt=0, le=100, description="Amplitude of the first pulse of a SET or RESET train.")
    stop_v: float | None = Field(None, gt=0, le=100, description="Amplitude at which a train ends.")
    step_v: float | None = Field(None, gt=0, le=100, description="Amplitude added from pulse to pulse of a train.")
    set_us: float | None = Field(None, gt=0, le=1e6, description="Mean rise by a SET pulse of start_v.")
    reset_us: float | None = Field(None, gt=0, le=1e6, description="Mean fall by a RESET pulse of start_v.")
    doubling_v: float | None = Field(
        None, gt=0, le=100, description="Amplitude over which a pulse's step doubles; null: it does not grow."
    )
    cycle_spread: float | None = Field(
        None, ge=0, le=10, description="Deviation of a pulse's step from pulse to pulse, relative; null: none."
    )
    device_spread: float | None = Field(
        None, ge=0, le=10, description="Deviation of the mean step from device to device, relative; null: none."
    )
    verify_sigma_us: float | None = Field(
        None, ge=0, le=1e6, description="Noise of a verify read; null: that of any read (device.read_sigma_us and read_noise)."
    )
    tolerance_us: float | None = Field(
        None, gt=0, le=1e6, description="A write has succeeded when a verify read lies that close to the goal."
    )
    trials: int | None = Field(
        None, ge=1, le=1000, description="Most SET-RESET trials of a write, in characterisation and transfer."
    )
    training_trials: int | None = Field(None, ge=1, le=1000, description="The same while training; null: as trials.")
    pulse_ns: float | None = Field(None, gt=0, le=1e12, description="Time of a SET or RESET pulse.")
    pulse_energy_nj: float | None = Field(None, ge=0, le=1e12, description="Energy of a SET or RESET pulse.")
    verify_ns: float | None = Field(None, gt=0, le=1e12, description="Time of a verify read.")
    verify_energy_nj: float | None = Field(None, ge=0, le=1e12, description="Energy of a verify read.")

    @model_validator(mode="after")
    def _train(self) -> Self:
        if self.start_v is not None and self.stop_v is not None and self.stop_v < self.start_v:
            raise ValueError(f"stop_v {self.stop_v} must not lie below start_v {self.start_v}")
        return self


class Pulse(Section):
    """A blind pulse, with no read: soft bounds, so that steps shrink towards the end of the window they move to."""

    up_us: float | None = Field(None, gt=0, le=1e6, description="Mean rise by an up pulse at the middle of the window.")
    down_us: float | None = Field(None, gt=0, le=1e6, description="Mean fall by a down pulse at the middle of the window.")
    cycle_spread: float | None = Field(
        None, ge=0, le=10, description="Deviation of a pulse's step from pulse to pulse, relative; null: none."
    )
    device_spread: float | None = Field(
        None, ge=0, le=10, description="Deviation of the mean step from device to device, relative; null: none."
    )
    pulse_ns: float | None = Field(None, gt=0, le=1e12, description="Time of a pulse.")
    pulse_energy_nj: float | None = Field(None, ge=0, le=1e12, description="Energy of a pulse.")
