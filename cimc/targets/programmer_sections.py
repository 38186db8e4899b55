"""Kinds of programmers: how a controller brings cells to their goals. docs/devices.md has what each does."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimc.targets.section import Section


class ProgrammerSection(Section):
    """How a controller brings cells to their goals. Base of the sections of all kinds."""

    counts_pulses: ClassVar[bool] = True
    """Whether a write consists of pulses that are counted, as ``device.endurance_unit: pulses`` needs it."""

    kind: str = Field(description="Name of a programmer: built in, registered, or from an entry point (cimc.programmers).")
    spread_us: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Deviation of a written conductance from its goal, for the bands of an image's self-test; null: as "
        "device.programming and device.write_verify say.",
    )


class DirectWrites(ProgrammerSection):
    """A write lands at once, as ``device.programming`` of the target says."""

    counts_pulses = False
    kind: Literal["direct"] = "direct"


class VerifiedWrites(ProgrammerSection):
    """Trains of SET and RESET pulses with a read after each; the figures are those of ``device.write_verify``."""

    kind: Literal["write_verify"] = "write_verify"


class BlindWrites(ProgrammerSection):
    """A counted number of blind pulses from the low end of the window, with no read, by the figures of ``device.pulse``."""

    kind: Literal["blind_pulses"] = "blind_pulses"
    end_share: float = Field(
        0.02,
        ge=1e-6,
        le=0.5,
        description="How near to an end of the window counts as there, in parts of the window: soft bounds never reach an end.",
    )
