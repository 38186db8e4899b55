"""How training changes the devices: the section of each update rule. ``update.rule`` chooses it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cimc.targets.kinds import BASES, BUILT_IN
from cimc.targets.section import Section


class Update(Section):
    """How training changes the devices."""

    younger = ("limit_share", "scales")

    rule: str = Field(
        "threshold",
        description="Name of an update rule: built in, registered, or from an entry point (cimc.update_rules). threshold: steps "
        "are summed digitally, and a weight whose sum exceeds the threshold is written; residual: whole pulse steps of the sum "
        "are given as blind pulses, the rest is kept; naive: no digital sum, a step is added to what the device holds and "
        "snapped to its levels; pulsed, tiki_taka, ttv2, residual_arrays: stochastic pulse trains on arrays of the rule's own.",
    )
    programming: Literal["gaussian", "write_verify"] = Field(
        "gaussian",
        description="gaussian: a write lands as device.programming says; write_verify: pulse by pulse. Not used "
        "where the chip has a section programmer, which has more kinds.",
    )
    threshold_share: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Step of an update in parts of the largest weight: threshold's limit, residual's pulse step. null: one "
        "level step (0 where levels are continuous); for residual the mean step of a blind pulse.",
    )
    limit_share: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Residual updates: pulses are given where the sum of steps reaches this part of the largest weight (or one "
        "pulse step, if that is larger). null: 1/3.",
    )
    scales: Literal["none", "layer", "column"] = Field(
        "none",
        description="Digital factors behind the sum that train with the weights: none, one a layer, or one a weight column.",
    )
    window_he: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Weight that spans the window while training, in units of the RMS of the weights that are programmed; where "
        "devices are read as born, of sqrt(2 / fan-in), the deviation of He initialisation. null: as weights.clip_sigma says.",
    )

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each of a weight's arrays in the weight; (): the weight has one array, coded as ``weights`` says.

        In each array a weight has two devices: pulses move the first, the second is the reference that is subtracted.
        """
        return ()


class PulsedUpdate(Update):
    """Stochastic gradient descent by stochastic pulse trains on one array."""

    pulse_train: int = Field(
        31, ge=1, le=32, description="Pulses of the stochastic trains that the rows and columns of an array get for one vector."
    )

    @property
    def shares(self) -> tuple[float, ...]:
        return (1.0,)


class TransferUpdate(PulsedUpdate):
    """What rules have in common that read one array and move what they read to another."""

    transfer_every: int = Field(1, ge=1, le=1 << 31, description="Updates from one transfer between arrays to the next.")
    transfer_rows: int = Field(
        1,
        ge=1,
        le=1 << 16,
        description="Rows of an array that a transfer reads, one after the other; the next one goes on there.",
    )
    transfer_lr: float = Field(1.0, gt=0, le=1e6, description="Part of what is read of an array that a transfer moves.")
    zero_shift_pulses: int = Field(
        0,
        ge=0,
        le=1 << 20,
        description="Pairs of an up and a down pulse that bring each device of all arrays but the first to its symmetry point, "
        "before the first update; its reference is then written there. 0: references stay at the middle of the window.",
    )


class TikiTakaUpdate(TransferUpdate):
    """An array A takes the gradient, and is moved to an array C a row at a time; the weight is C + gamma A."""

    gamma: float = Field(0.0, ge=0, le=1, description="Share of the array A in the weight; 0: forward reads see C alone.")

    @property
    def shares(self) -> tuple[float, ...]:
        return (1.0, self.gamma)


class Ttv2Update(TikiTakaUpdate):
    """As tiki_taka, with a digital buffer between A and C."""

    buffer_share: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Content of the buffer that gives C a pulse, in parts of the largest weight; null: the mean step of a pulse.",
    )


class ResidualArraysUpdate(TransferUpdate):
    """The weight is a sum of arrays of falling share; the finest takes the gradient, each is moved to the next coarser."""

    arrays: int = Field(3, ge=2, le=8, description="Arrays of a weight.")
    gamma: float = Field(0.5, gt=0, lt=1, description="Share of an array in that of the next coarser.")

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(self.gamma**n for n in range(self.arrays))


BUILT_IN["update_rule"] |= {
    "threshold": Update, "residual": Update, "naive": Update, "pulsed": PulsedUpdate, "tiki_taka": TikiTakaUpdate,
    "ttv2": Ttv2Update, "residual_arrays": ResidualArraysUpdate,
}  # fmt: skip
BASES["update_rule"] = Update
