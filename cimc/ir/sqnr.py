"""Signal to quantisation noise ratio."""

from __future__ import annotations

from math import log10


def power_ratio_db(signal: float, error: float) -> float | None:
    """``10 log10(signal / error)`` of two powers, dB; None where there is no error, or no signal."""
    return 10 * log10(signal / error) if signal > 0 and error > 0 else None
