"""What `cimc.explain` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cimc.budget.causes import Cause
from cimc.shown import Shown


@dataclass(frozen=True)
class Total:
    """The chip as it is, against the model in ONNX Runtime."""

    images: int
    output: str
    """The output behind all figures: the model's first."""
    sqnr_db: float | None
    """Signal over error of the output; None: there is no error, or no signal."""
    accuracy: float | None
    """Share of the labels that are met; None, as of all accuracies: there are no labels."""
    reference_accuracy: float | None
    """The same of the model in ONNX Runtime."""
    accuracy_lost: float | None
    standard_error: float | None
    """Of ``accuracy_lost``, from the number of labels; both run on the same samples."""
    exact_sqnr_db: float | None
    """Of the program without any error: what remains is rounding of float32, or the program is not the model's."""
    exact_accuracy: float | None


@dataclass(frozen=True)
class Part:
    """What a cause costs: in one layer, or in all of them.

    ``accuracy_lost`` and ``error_share`` are the mean of two differences: from the exact execution to the cause alone, and from
    the chip without the cause to the chip. They add up to the whole where causes interact in pairs only; `Interaction` states the
    rest.
    """

    layer: str | None
    """None: all layers."""
    cause: Cause
    sqnr_db: float | None
    """Signal over error of the output with this cause alone; None: it alone makes no error."""
    accuracy_lost: float | None
    standard_error: float | None
    """Of ``accuracy_lost``."""
    error_share: float
    """Part of the error power of the output; negative: the cause lowers the error that others make."""
    sqnr_db_without: float | None
    """The same of the chip without this cause alone; None: it was not tried, as the cause alone makes too little error."""
    accuracy_lost_alone: float | None
    accuracy_regained: float | None
    """Accuracy of the chip without this cause, less that of the chip; None as ``sqnr_db_without``."""


@dataclass(frozen=True)
class Interaction:
    """The whole less the sum of the parts."""

    error_share: float
    accuracy_lost: float | None


@dataclass(frozen=True)
class Lever:
    """Something that may be changed."""

    what: str
    """In words, with the setting or the figure of the target."""
    kind: str
    """``setting``, ``chip`` (another figure of the target), ``layer`` (one layer), ``calibration`` or ``program`` (a fault)."""
    layer: str | None
    brings: float
    """Accuracy, as a share of the labels; without labels dB of the output's SQNR."""
    standard_error: float | None
    gained_db: float
    """How much the SQNR of the output rises."""


@dataclass(frozen=True, repr=False)
class Budget(Shown):
    """Where a chip loses, why, and what would help."""

    total: Total
    rows: list[Part]
    """By layer and cause, the largest part of the error first."""
    causes: list[Part]
    """By cause, of all layers together."""
    interaction: Interaction
    """Of ``causes``."""
    interaction_of_rows: Interaction
    levers: list[Lever]
    """Most first: accuracy, or SQNR where there are no labels."""
    notes: list[str]

    def _facts(self) -> dict[str, object]:
        total = self.total
        return {
            "images": total.images, "SQNR, dB": total.sqnr_db, "accuracy": total.accuracy, "accuracy lost": total.accuracy_lost,
            "largest cause": self.causes[0].cause if self.causes else None, "lever": self.levers[0].what if self.levers else None,
        }  # fmt: skip

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        return ("cause", "share of the error", "accuracy lost"), [(p.cause, p.error_share, p.accuracy_lost) for p in self.causes]

    def to_dict(self) -> dict[str, Any]:
        """As the JSON of ``cimc explain``."""
        return asdict(self)
