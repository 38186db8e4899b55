"""The section of a device, and the kinds that its parts have built in."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from cimc.targets.kinds import BASES, BUILT_IN, ByKind
from cimc.targets.programmer_sections import BlindWrites, DirectWrites, ProgrammerSection, VerifiedWrites
from cimc.targets.programming_sections import PolynomialProgramming, Programming, ProgrammingSection, SaturatingProgramming
from cimc.targets.section import Section
from cimc.targets.table_sections import TableNoise, TableProgramming
from cimc.targets.time_sections import DriftSection, FlickerNoise, PowerLawDrift, ReadNoiseSection, RelaxationDrift, SlowNoise
from cimc.targets.weight_sections import SharedReferenceWeights, Weights
from cimc.targets.write_sections import Pulse, WriteVerify


class Device(Section):
    """The memristor at each crossing."""

    younger = ("read_noise", "slow_noise", "drift", "endurance_unit")

    kind: str = Field(
        "memristor", description="Name of a device model: built in, registered, or from an entry point (cimc.devices)."
    )
    g_min_us: float = Field(
        0.0, ge=0, le=1e9, description="Lowest conductance that weights are written to; it stands for the digit 0."
    )
    g_max_us: float = Field(1.0, gt=0, le=1e9, description="Highest conductance that weights are written to.")
    levels: int | None = Field(
        None,
        ge=2,
        le=1 << 16,
        description="Equally spaced conductances over the window, both ends included, so that one level step is "
        "(g_max - g_min) / (levels - 1); null: continuous.",
    )
    read_voltage_v: float = Field(
        1.0, gt=0, le=100, description="Voltage of a read pulse; it turns a conductance into a current."
    )
    read_sigma_us: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Read noise of one device, the same at every conductance: drawn for each conversion, held over the input "
        "pulses of that conversion.",
    )
    read_noise: Annotated[ReadNoiseSection | None, ByKind("read_noise"), SerializeAsAny()] = Field(
        None, description="Read noise that depends on conductance and age, beside read_sigma_us; null: none."
    )
    slow_noise: SlowNoise | None = Field(None, description="Noise that holds over many reads; null: none.")
    programming: Annotated[ProgrammingSection, ByKind("programming"), SerializeAsAny()] = Programming()
    drift: Annotated[DriftSection | None, ByKind("drift"), SerializeAsAny()] = Field(
        None, description="How a conductance moves after its write; null: it stays."
    )
    write_verify: WriteVerify = WriteVerify()
    pulse: Pulse = Pulse()
    born_us: tuple[float, float] | None = Field(
        None, description="Conductances before the first write, uniform between these two; null: g_min."
    )
    endurance_writes: int | None = Field(
        None, ge=1, le=1 << 31, description="Uses, in endurance_unit, after which a device keeps its conductance; null: no end."
    )
    endurance_unit: Literal["writes", "pulses"] = Field(
        "writes",
        description="What endurance_writes counts. writes: each write once, however many pulses it took, and each blind pulse; "
        "pulses: each SET, RESET or blind pulse.",
    )
    stuck_low_rate: float = Field(0.0, ge=0, le=1, description="Share of devices that hold g_min whatever is written.")
    stuck_high_rate: float = Field(0.0, ge=0, le=1, description="Share of devices that hold g_max whatever is written.")

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.g_max_us <= self.g_min_us:
            raise ValueError(f"g_max_us {self.g_max_us} must lie above g_min_us {self.g_min_us}")
        if self.born_us is not None and not 0 <= self.born_us[0] <= self.born_us[1]:
            raise ValueError(f"born_us {self.born_us} must rise from 0 or above")
        if self.stuck_low_rate + self.stuck_high_rate > 1:
            raise ValueError("stuck_low_rate and stuck_high_rate add up to more than 1")
        return self

    @property
    def read_spread_us(self) -> float:
        """Read noise of a device, root mean square over the window right after its write: where one figure stands for all."""
        if self.read_noise is None:
            return self.read_sigma_us
        g_us = np.linspace(self.g_min_us, self.g_max_us, 65)
        return float(np.sqrt(self.read_sigma_us**2 + self.read_noise.variance_us2(g_us, g_us, 0.0).mean()))

    @property
    def is_exact(self) -> bool:
        """Whether every device holds and shows exactly what was written, at any time: nothing is drawn, nothing moves."""
        exact = Programming()
        return (
            self.kind == "memristor"
            and self.programming == exact
            and not (self.read_sigma_us or self.stuck_low_rate or self.stuck_high_rate)
            and self.drift is None
            and self.read_noise is None
            and self.slow_noise is None
        )


BUILT_IN["device"]["memristor"] = Device
BUILT_IN["programming"] |= {
    "gaussian": Programming, "polynomial": PolynomialProgramming, "saturating": SaturatingProgramming, "table": TableProgramming,
}  # fmt: skip
BUILT_IN["drift"] |= {"power_law": PowerLawDrift, "relaxation": RelaxationDrift}
BUILT_IN["read_noise"] |= {"flicker": FlickerNoise, "table": TableNoise}
BUILT_IN["programmer"] |= {"direct": DirectWrites, "write_verify": VerifiedWrites, "blind_pulses": BlindWrites}
BASES["programmer"] = ProgrammerSection
BUILT_IN["weight_code"] |= {"differential_pair": Weights, "offset": Weights, "shared_reference": SharedReferenceWeights}
BASES["weight_code"] = Weights
BASES |= {"device": Device, "programming": ProgrammingSection, "drift": DriftSection, "read_noise": ReadNoiseSection}
