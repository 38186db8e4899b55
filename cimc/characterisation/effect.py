"""What the fit of one effect gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cimc.characterisation.cells import F64
from cimc.characterisation.uncertainty import Interval
from cimc.errors import DataError


@dataclass(frozen=True)
class Effect:
    """Figures of a target with what is known of them."""

    figures: dict[str, Any]
    """Values by dotted path below ``device``."""
    source: str
    """Files, rows and devices that they were fitted to."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """By dotted path below ``device``, or by what it is where no field holds it."""
    likelihoods: dict[str, float] = field(default_factory=dict)
    """Held-out log-likelihood of a record, in nats, by form that was tried."""
    form: str = ""
    """The form that was chosen."""
    residuals: F64 = field(default_factory=lambda: np.zeros(0))
    """Standardised by the fit: 0 on the average, with deviation 1, where the form is right."""
    found: tuple[str, ...] = ()
    """Effects that no kind of device holds, with their figures."""
    notes: tuple[str, ...] = ()


def rounded(value: float, digits: int = 6) -> float:
    """A figure as files hold it."""
    return float(f"{value:.{digits}g}")


def need(count: int, wanted: int, of: str, source: str) -> None:
    """Refuse too few data.

    Raises:
        DataError: There are fewer than wanted.
    """
    if count < wanted:
        raise DataError(f"{count} {of} are too few for a fit", where=source, fix=f"measure {wanted} or more")
