"""One call of `Trainer.fit`: epochs, rates, recalibration, rows and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.errors import RunError
from cimc.training.checkpoint import Checkpoint, Folder, same_settings
from cimc.training.cost import Count
from cimc.training.data import Arrays, Batch, Stream
from cimc.training.history import TIMING, Callback, Metrics, Row

if TYPE_CHECKING:
    from cimc.training.ranges import Form
    from cimc.training.trainer import Trainer


class DivergedError(RunError):
    """A loss or gradient is not finite."""


@dataclass
class Progress:
    """Where a run is."""

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


@dataclass
class Run:
    """One call of `Trainer.fit`."""

    trainer: Trainer
    source: Arrays | Stream
    tests: Arrays | None
    epochs: int
    at: Progress
    callbacks: list[Callback]
    checkpoint_steps: int | None
    folder: Folder | None = None
    metrics: Metrics | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def open(self, path: str | Path, resume: bool, settings: dict[str, Any]) -> None:
        """Take the folder, and what it holds if resumed; else write a first checkpoint: what cannot be written shows early."""
        self.folder, self.settings = Folder(path), settings
        self.metrics = Metrics(self.folder.metrics)
        found = self.folder.find(resume)
        if found is not None:
            self._restore(found)
        self.rows = self.metrics.resume(self.at.rows)
        if found is None:
            self._save()

    def go(self) -> None:
        """Epoch after epoch."""
        trainer, per_epoch = self.trainer, self._steps()
        for callback in self.callbacks:
            callback.on_start(trainer, self.epochs, per_epoch, self.at.epoch * (per_epoch or 0) + self.at.step)
        while self.at.epoch < self.epochs:
            self._epoch(per_epoch)

    def _steps(self) -> int | None:
        batches = self.source.steps_per_epoch
        return None if batches is None else max(1, -(-batches // self.trainer.accumulate))

    def _epoch(self, per_epoch: int | None) -> None:
        trainer, at, begin = self.trainer, self.at, time.perf_counter()
        done, count = at.images, trainer._count
        for batches in self._batches():
            self._step(batches, per_epoch)
            if self.checkpoint_steps and at.step % self.checkpoint_steps == 0:
                self._save()
        seconds = time.perf_counter() - begin
        self._calibrate_after_epoch()
        row = self._row(count, seconds, at.images - done)
        at.rows.append({name: value for name, value in row.items() if name not in TIMING})
        self.rows.append(row)
        self.at = at = Progress(epoch=at.epoch + 1, rows=at.rows)
        self._save()
        if self.metrics is not None:
            self.metrics.append(row)
        for callback in self.callbacks:
            callback.on_epoch(trainer, row)

    def _batches(self) -> Iterator[list[Batch]]:
        together: list[Batch] = []
        for batch in self.source.epoch(self.at.epoch, self.at.step * self.trainer.accumulate):
            together.append(batch)
            if len(together) == self.trainer.accumulate:
                yield together
                together = []
        if together:
            yield together

    def _rate(self, per_epoch: int | None) -> float:
        at, schedule = self.at, self.trainer._schedule
        if per_epoch is None:  # nobody knows how long it takes: the rate changes from epoch to epoch
            return schedule.rate(at.epoch, self.epochs, at.epoch)
        return schedule.rate(at.epoch * per_epoch + at.step, self.epochs * per_epoch, at.epoch)

    def _step(self, batches: list[Batch], per_epoch: int | None) -> None:
        trainer, at = self.trainer, self.at
        if not trainer.ranges.suit("training"):
            self._calibrate("training", batches)
        lr = self._rate(per_epoch)
        try:
            result = trainer._advance(batches, lr)
        except DivergedError as error:
            raise RunError(
                f"training has diverged: {error.what}",
                where=f"epoch {at.epoch + 1}, step {at.step + 1}",
                fix=f"a learning rate below {lr:.3g}, or clip gradients (clip_norm 1)",
            ) from error
        images = sum(len(next(iter(inputs.values()))) for inputs, _ in batches)
        right, scored = trainer._scores.right(result.outputs, batches[-1][1])
        at.step, at.images, at.losses = at.step + 1, at.images + images, at.losses + result.loss * images
        at.right, at.scored, at.lr = at.right + right, at.scored + scored, lr
        if trainer.ranges.outgrown():
            self._calibrate("training", batches)
            at.recalibrations += 1
        row = {"epoch": at.epoch + 1, "step": trainer.steps, "lr": lr, "loss": result.loss, "images": images}
        for callback in self.callbacks:
            callback.on_step(trainer, row)

    def _calibrate(self, form: Form, batches: list[Batch]) -> None:
        trainer = self.trainer
        size = trainer._feed.fixed_batch
        if isinstance(self.source, Arrays) and size is None:
            trainer.ranges.choose(form, self.source.some(trainer.calibration_images))
        else:
            trainer.ranges.choose(form, batches[-1])

    def _calibrate_after_epoch(self) -> None:
        if isinstance(self.source, Arrays) and self.trainer._feed.fixed_batch is None:
            self._calibrate("inference", [])

    def _row(self, count: Count, seconds: float, images: int) -> Row:
        trainer, at = self.trainer, self.at
        states = trainer._learner.states.values()
        weights, devices = sum(s.updates.size for s in states), sum(s.writes.size for s in states)
        total = {
            "updates": count.writes.updates, "device_writes": count.writes.devices,
            "conversions": count.adc_conversions, "saturations": count.adc_saturations,
            "backward_conversions": count.backward_conversions, "backward_saturations": count.backward_saturations,
        }  # fmt: skip
        before = dict.fromkeys(total, 0) | (at.rows[-1]["total"] if at.rows else {})
        conversions = total["conversions"] - before["conversions"]
        backward = total["backward_conversions"] - before["backward_conversions"]
        found = None if self.tests is None else trainer._evaluate(self.tests)
        loss = at.losses / max(1, at.images)
        trainer._schedule.observe(loss if found is None else found["loss"])
        return {
            "epoch": at.epoch + 1,
            "step": trainer.steps,
            "lr": at.lr,
            "loss": loss,
            "accuracy": at.right / at.scored if at.scored else None,
            "validation_loss": None if found is None else found["loss"],
            "validation_accuracy": None if found is None else found["accuracy"],
            "updates": total["updates"] - before["updates"],
            "device_writes": total["device_writes"] - before["device_writes"],
            "updates_per_weight": total["updates"] / max(1, weights),
            "most_updates": max((int(s.updates.max(initial=0)) for s in states), default=0),
            "device_writes_per_device": total["device_writes"] / max(1, devices),
            "adc_saturation_share": (total["saturations"] - before["saturations"]) / max(1, conversions),
            "backward_saturation_share": (total["backward_saturations"] - before["backward_saturations"]) / max(1, backward),
            "recalibrations": at.recalibrations,
            "total": total,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }

    # Checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.folder is None:
            return
        trainer = self.trainer
        arrays, ranges = trainer._learner.state()
        arrays |= {f"schedule/{name}": array for name, array in trainer._schedule.state().items()}
        record = {
            "settings": self.settings,
            "progress": vars(self.at),
            "steps": trainer.steps,
            "images": trainer.images,
            **trainer.ranges.state(),
            "count": trainer._count.to_dict(),
            "ranges": ranges,
        }
        self.folder.save(Checkpoint(arrays, record))

    def _restore(self, found: Checkpoint) -> None:
        trainer, record = self.trainer, found.record
        same_settings(record["settings"], self.settings, str(self.folder.path if self.folder else ""))
        trainer._learner.restore(found.arrays, record["ranges"])
        trainer._schedule.restore(found.part("schedule"))
        self.at = Progress(**record["progress"])
        trainer.steps, trainer.images = record["steps"], record["images"]
        trainer._count = Count.of(record["count"])
        trainer.ranges.restore(record)
