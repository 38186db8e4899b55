"""What a search may spend, and what a compiled model costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Self

from cimc.errors import CimcError
from cimc.ir.program import Program

#: What has a budget, as a share that may be added to the cost of the defaults.
WORDS = ("arrays", "latency", "energy")


@dataclass(frozen=True)
class Cost:
    """Cost of one image. Where the target gives no time or energy, firings stand for them."""

    arrays: int
    """Tiles in use."""
    latency: float
    """Milliseconds as placed; firings of the busiest tile where no time is known."""
    energy: float
    """Millijoules of analog reads; tile operations where no energy is known."""
    digital_share: float = 0.0
    """Share of the multiply-accumulates that the search has taken off the crossbars."""

    @classmethod
    def of(cls, program: Program, macs: int) -> Self:
        """The cost of a program; ``macs`` are multiply-accumulates of an image with all products on crossbars."""
        cost = program.cost()
        known = cost.latency_ms.placed if cost.latency_ms.placed is not None else cost.latency_ms.pipelined
        latency = known if known is not None else float(max((layer.ops or 0 for layer in cost.layers), default=0))
        energy = cost.energy_mj.analog if cost.energy_mj.analog is not None else float(cost.tile_ops or 0)
        share = 1 - (cost.flops or 0) / (2 * macs) if macs else 0.0
        return cls(cost.tiles or cost.crossbars, latency, energy, max(0.0, share))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def added(self, base: Cost) -> dict[str, float]:
        """What it costs more than ``base``, as shares of that."""
        return {word: getattr(self, word) / getattr(base, word) - 1 if getattr(base, word) else 0.0 for word in WORDS}


@dataclass(frozen=True)
class Limits:
    """Shares that may be added to the cost of the defaults, and the share of work that may become digital."""

    arrays: float = inf
    latency: float = inf
    energy: float = inf
    digital: float = 0.0

    @classmethod
    def of(cls, given: Mapping[str, float] | None, digital_share: float) -> Self:
        """A budget by word; what is not named is not limited.

        Raises:
            CimcError: An unknown word, or a share that is no number from 0.
        """
        for word, share in (given or {}).items():
            if word not in WORDS:
                raise CimcError(f"no budget is called {word}", where="budget", fix=f"one of {', '.join(WORDS)}")
            if isinstance(share, bool) or not isinstance(share, int | float) or not share >= 0:
                raise CimcError(f"{word}={share!r} is no share from 0", where="budget", fix="0.2 allows 20 % more")
        if not 0 <= digital_share <= 1:
            raise CimcError(f"{digital_share} is no share from 0 to 1", where="digital_share")
        return cls(**(given or {}), digital=digital_share)

    def allows(self, cost: Cost, base: Cost) -> bool:
        """Whether a cost is within it."""
        slack = 1e-9
        within = all(share <= getattr(self, word) + slack for word, share in cost.added(base).items())
        return within and cost.digital_share <= self.digital + slack


def parse_budget(text: str) -> dict[str, float]:
    """``"arrays=+20%,latency=+50%"`` as shares by word.

    Raises:
        CimcError: Not of that form.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        word, _, number = part.strip().partition("=")
        share = share_of(number.strip().removeprefix("+"))
        if word not in WORDS or share is None:
            raise CimcError(f"--budget {part} is not WORD=+SHARE", fix=f"for example arrays=+20%; words are {', '.join(WORDS)}")
        found[word] = share
    return found


def share_of(text: str) -> float | None:
    """``"5%"`` or ``"0.05"``; None where it is no share from 0."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return share if 0 <= share < inf else None
