"""What programming devices came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]


@dataclass
class Writes:
    """What an update cost. None: not modelled by this programmer, or the target gives no figure. Sums with ``+``."""

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


@dataclass(frozen=True)
class Report:
    """What a programmer did with n devices. None: not modelled by this programmer, or the target gives no figure."""

    devices: int
    """n."""
    success: NDArray[np.bool_] | None = None
    """Whether the last verify read of each device lay in tolerance, ``[n]``; None: nothing was verified."""
    pulses: I32 | None = None
    """``[n]``."""
    reads: I32 | None = None
    """Verify reads, ``[n]``."""
    trials: I32 | None = None
    """SET-RESET trials, ``[n]``."""
    worn: int = 0
    """Devices that were used beyond their endurance."""
    time_ns: float | None = None
    """In all, one device after the other."""
    energy_nj: float | None = None
    """In all."""

    def totals(self) -> Writes:
        """Sums over the devices."""
        pulses, reads, trials = (
            None if each is None else int(each.sum(dtype=np.int64)) for each in (self.pulses, self.reads, self.trials)
        )
        failed = 0 if self.success is None else int((~self.success).sum())
        return Writes(
            devices=self.devices, pulses=pulses, trials=trials, reads=reads, failed=failed, worn=self.worn, time_ns=self.time_ns,
            energy_nj=self.energy_nj,
        )  # fmt: skip
