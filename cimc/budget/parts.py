"""What each cause costs, by layer and of all layers: alone, and all but it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cimc.budget.bench import Bench, Outcome
from cimc.budget.causes import CAUSES, Cause, Kept, only
from cimc.budget.result import Interaction, Part

#: Share of the chip's error power from which on a cause is taken out of the chip, and below which it is no row.
_TRIED, _SHOWN = 1e-3, 1e-6
#: Share of the signal's power below which an error is rounding of float32.
_ROUNDING = 1e-11


class Parts:
    """The parts of a chip's error.

    Args:
        bench: The chip and the samples.
        whole: The chip as it is.
        exact: The execution without any error.
    """

    def __init__(self, bench: Bench, whole: Outcome, exact: Outcome) -> None:
        self._bench, self._whole, self._exact = bench, whole, exact
        self._causes = {layer: bench.causes_of(layer) for layer in bench.layers}

    def by_cause(self) -> list[Part]:
        """Of all layers together, largest first."""
        found = []
        for cause in CAUSES:
            layers = [layer for layer in self._bench.layers if cause in self._causes[layer]]
            if layers and (part := self._part(None, cause, layers, True)) is not None:
                found.append(part)
        return _sorted(found)

    def by_layer(self, causes: Iterable[Part]) -> list[Part]:
        """By layer and cause, of the causes that cost anything, largest first."""
        found = []
        for whole in causes:
            layers = [layer for layer in self._bench.layers if whole.cause in self._causes[layer]]
            if len(layers) == 1:
                found.append(Part(**{**vars(whole), "layer": layers[0]}))
                continue
            parts = (self._part(layer, whole.cause, [layer], whole.sqnr_db_without is not None) for layer in layers)
            found += [part for part in parts if part is not None]
        return _sorted(found)

    def interaction(self, parts: Iterable[Part]) -> Interaction:
        """What parts leave of the whole."""
        parts = list(parts)
        share = 1.0 - sum(part.error_share for part in parts) if self._whole.error > self._floor else 0.0
        lost = mean_lost(self._exact, self._whole)
        rest = None if lost is None else lost - sum(part.accuracy_lost or 0.0 for part in parts)
        return Interaction(share, rest)

    @property
    def _floor(self) -> float:
        return _ROUNDING * self._whole.signal

    def _part(self, layer: str | None, cause: Cause, layers: list[str], tried: bool) -> Part | None:
        """None: it costs nothing."""
        kept: Mapping[str, Kept] = dict.fromkeys(layers, only(cause))
        alone, without = self._bench.alone(kept), None
        whole, exact = self._whole, self._exact
        first = max(0.0, alone.error - exact.error)
        first = first if first > self._floor else 0.0
        if tried and (layer is None or first > _TRIED * whole.error):
            without = self._bench.kept({name: {cause: 0.0} for name in layers})
        differences = [(exact, alone)] if without is None else [(exact, alone), (without, whole)]
        last = first if without is None else whole.error - without.error
        share = (first + last) / 2 / whole.error if whole.error > self._floor else 0.0
        if not first and abs(share) < _SHOWN:
            return None
        lost, deviation = _mean_and_error(differences)
        return Part(
            layer=layer,
            cause=cause,
            sqnr_db=alone.sqnr_db if first else None,
            accuracy_lost=lost,
            standard_error=deviation,
            error_share=share,
            sqnr_db_without=None if without is None else without.sqnr_db,
            accuracy_lost_alone=mean_lost(exact, alone),
            accuracy_regained=None if without is None else mean_lost(without, whole),
        )


def mean_lost(before: Outcome, after: Outcome) -> float | None:
    """Accuracy that is lost from one execution to another."""
    return _mean_and_error([(before, after)])[0]


def error_of_lost(before: Outcome, after: Outcome) -> float | None:
    """Standard error of `mean_lost`: a label counts as one sample."""
    return _mean_and_error([(before, after)])[1]


def _mean_and_error(differences: list[tuple[Outcome, Outcome]]) -> tuple[float | None, float | None]:
    lost: list[NDArray[np.float64]] = [a.right - b.right for a, b in differences if a.right is not None and b.right is not None]
    if not lost:
        return None, None
    each = np.mean(lost, axis=0)
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None


def _sorted(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: -part.error_share)
