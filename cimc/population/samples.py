"""Settings that are spread over ranges of many fields, where a grid would have too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from cimc.arguments import within
from cimc.errors import CimcError

Placing = Literal["sobol", "latin"]
_MOST = 1 << 16


@dataclass(frozen=True)
class Span:
    """A range of a field.

    Raises:
        CimcError: The ends are no finite numbers in rising order, or an end of a logarithmic one is not positive.
    """

    low: float
    high: float
    log: bool = False
    """Spread evenly in the logarithm."""

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            within(name, value, 1e-30 if self.log else -1e30, 1e30)
        if self.low >= self.high:
            raise CimcError(f"the range from {self.low:g} to {self.high:g} is empty", where="span", fix="the lower end first")

    @property
    def whole(self) -> bool:
        """Whether both ends are integers: then all values are."""
        return all(isinstance(value, int) for value in (self.low, self.high))

    def at(self, share: float) -> float:
        """The value at a share (0 up to 1) of the range; of whole numbers each has the same share."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        low = max(low, 0.5) if self.whole and self.log else low
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return int(np.clip(round(value), self.low, self.high)) if self.whole else float(value)


def spread(spans: Mapping[str, Any], samples: int, placed: Placing, seed: int) -> list[dict[str, Any]]:
    """Settings that fill the ranges evenly, by scipy's quasi-Monte Carlo samplers.

    Args:
        spans: `Span` by dotted path of a field.
        samples: How many; of a Sobol sequence best a power of 2.
        placed: ``sobol``, scrambled (Owen), or ``latin``: a Latin hypercube.
        seed: Of the scrambling.

    Raises:
        CimcError: scipy is not installed, or an argument is out of range.
    """
    within("samples", samples, 1, _MOST, whole=True)
    if placed not in get_args(Placing):
        raise CimcError(f"samples are not placed by {placed!r}", where="placed", fix="sobol or latin")
    if not spans or not all(isinstance(span, Span) for span in spans.values()):
        raise CimcError("samples need ranges", where="grid", fix='give {"device.programming.sigma_us": Span(1, 4)}')
    try:
        from scipy.stats import qmc
    except ImportError as error:
        raise CimcError("samples need scipy", where="samples", fix="pip install scipy, or give a grid of values") from error
    random = np.random.default_rng(seed)
    if placed == "sobol":  # of the next power of 2, which is what the sampler wants, the first ones
        shares = qmc.Sobol(len(spans), rng=random).random_base2((samples - 1).bit_length())[:samples]
    else:
        shares = qmc.LatinHypercube(len(spans), rng=random).random(samples)
    return [{path: span.at(share) for (path, span), share in zip(spans.items(), row, strict=True)} for row in shares.tolist()]
