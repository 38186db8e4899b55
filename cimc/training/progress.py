"""Where a run of epochs is, and the row that an epoch ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cimc.training.history import TIMING, Row
from cimc.training.training import Training


@dataclass
class Progress:
    """Of the present epoch, but for `begun`, `epoch` and `rows`; a checkpoint holds all of it."""

    begun: int = 0
    """Images that the chip had been trained on when the run began."""
    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in the present epoch."""
    losses: float = 0.0
    right: int = 0
    scored: int = 0
    images: int = 0
    recalibrations: int = 0
    lr: float = 0.0
    """Of the last step."""
    rows: list[Row] = field(default_factory=list)

    def add(self, loss: float, images: int, right: int, scored: int, lr: float) -> None:
        """Count a step."""
        self.step, self.images, self.losses = self.step + 1, self.images + images, self.losses + loss * images
        self.right, self.scored, self.lr = self.right + right, self.scored + scored, lr

    def row(self, training: Training, found: dict[str, Any] | None, seconds: float, images: int) -> Row:
        """The present epoch's row of `History`.

        Args:
            training: Whose steps they were.
            found: What an evaluation after the epoch gave.
            seconds: That the epoch took, since it began or was resumed.
            images: Trained on in that time.
        """
        count, states = training.count, training.learner.states.values()
        weights, devices = sum(s.updates.size for s in states), sum(s.writes.size for s in states)
        total = {
            "updates": count.writes.updates, "device_writes": count.writes.devices,
            "conversions": count.adc_conversions, "saturations": count.adc_saturations,
            "backward_conversions": count.backward_conversions, "backward_saturations": count.backward_saturations,
        }  # fmt: skip
        before = dict.fromkeys(total, 0) | (self.rows[-1]["total"] if self.rows else {})
        new = {name: total[name] - before[name] for name in total}
        return {
            "epoch": self.epoch + 1,
            "step": training.steps,
            "lr": self.lr,
            "loss": self.losses / max(1, self.images),
            "accuracy": self.right / self.scored if self.scored else None,
            "validation_loss": None if found is None else found["loss"],
            "validation_accuracy": None if found is None else found["accuracy"],
            "updates": new["updates"],
            "device_writes": new["device_writes"],
            "updates_per_weight": total["updates"] / max(1, weights),
            "most_updates": max((int(s.updates.max(initial=0)) for s in states), default=0),
            "device_writes_per_device": total["device_writes"] / max(1, devices),
            "adc_saturation_share": new["saturations"] / max(1, new["conversions"]),
            "backward_saturation_share": new["backward_saturations"] / max(1, new["backward_conversions"]),
            "recalibrations": self.recalibrations,
            "total": total,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }

    def after(self, row: Row) -> Progress:
        """At the beginning of the next epoch."""
        kept = {name: value for name, value in row.items() if name not in TIMING}
        return Progress(begun=self.begun, epoch=self.epoch + 1, rows=[*self.rows, kept])
