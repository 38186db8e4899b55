"""One call of `Trainer.fit`: epochs, rates, recalibration, rows and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.errors import RunError
from cimc.runtime.clipping import clipping_notes
from cimc.training.checkpoint import Checkpoint, same_settings
from cimc.training.content import check_arrays, check_chip, check_record
from cimc.training.data import Arrays, Stream
from cimc.training.feed import Batch
from cimc.training.folder import Folder
from cimc.training.history import Callback, Metrics, Row
from cimc.training.learner import DivergedError
from cimc.training.progress import Progress
from cimc.training.schedules import Schedule
from cimc.training.training import Training

if TYPE_CHECKING:
    from cimc.training.ranges import Form
    from cimc.training.trainer import Trainer


@dataclass
class Run:
    """Steps in their order, until all epochs are done.

    Args:
        trainer: Whose options count, and whom callbacks are shown.
        training: What steps change.
        source: Of batches.
        tests: To evaluate on after each epoch.
        epochs: How many.
        schedule: Of this run alone.
        callbacks: Told of steps and epochs.
        checkpoint_steps: Steps from checkpoint to checkpoint within an epoch.
    """

    trainer: Trainer
    training: Training
    source: Arrays | Stream
    tests: Arrays | None
    epochs: int
    schedule: Schedule
    callbacks: list[Callback]
    checkpoint_steps: int | None
    at: Progress = field(default_factory=Progress)
    folder: Folder | None = None
    metrics: Metrics | None = None
    found: Checkpoint | None = None
    """In the folder, checked."""
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    clipping: list[str] = field(default_factory=list)
    """Layers that clipped or saturated in the last epoch."""

    def open(self, path: str | Path, resume: bool, settings: dict[str, Any]) -> None:
        """Take the folder, and check what it holds if resumed; trainer and chip stay as they are.

        Raises:
            CimcError: Another run has the folder, or it holds one that is not to be resumed.
            ArtifactError: The checkpoint is damaged, or that of another run.
        """
        self.folder, self.settings = Folder(path), settings
        found = self.folder.find(resume)
        if found is not None:
            where, own, learner = str(self.folder.file), self._state(), self.training.learner
            found = found.completed(own, learner.states)
            check_record(found.record, own.record, where)
            same_settings(found.record["settings"], settings, where)
            check_arrays(found.arrays, own.arrays, learner.sizes(), learner.optimizer.slots, where)
            check_chip(found, self.training.chip, learner.states, where)
            self.schedule.check(found.part("schedule"))
        self.found = found

    def begin(self) -> None:
        """Go on from the checkpoint that `open` found; else write a first one: what cannot be written shows early."""
        if self.folder is None:
            return
        if isinstance(self.source, Stream):
            self.source.watched = True
        self.metrics = Metrics(self.folder.metrics)
        if self.found is not None:
            self._restore(self.found)
        self.rows = self.metrics.resume(self.at.rows)
        if self.found is None:
            self._save()
        self.found = None

    def close(self) -> None:
        """Let others have the folder."""
        if self.folder is not None:
            self.folder.close()

    def go(self) -> None:
        """Epoch after epoch."""
        batches, together = self.source.length, self.trainer.accumulate
        per_epoch = None if batches is None else max(1, -(-batches // together))
        for callback in self.callbacks:
            callback.on_start(self.trainer, self.epochs, per_epoch, self.at.epoch * (per_epoch or 0) + self.at.step)
        with self.training.step.alone():
            while self.at.epoch < self.epochs:
                self._epoch(per_epoch)

    def _epoch(self, per_epoch: int | None) -> None:
        begin, done, before = time.perf_counter(), self.at.images, self.training.chip.stats()
        for batches in self._batches():
            self._step(batches, per_epoch)
            if self.checkpoint_steps and self.at.step % self.checkpoint_steps == 0:
                self._save()
        seconds = time.perf_counter() - begin
        self._choose("inference")
        found = None if self.tests is None else self.training.evaluate(self.tests)
        row = self.at.row(self.training, found, seconds, self.at.images - done)
        self.schedule.observe(row["loss"] if found is None else found["loss"])
        self.clipping = clipping_notes(_since(before, self.training.chip.stats()), self.training.chip.program)
        self.rows.append(row)
        self.at = self.at.after(row)
        self._save()
        if self.metrics is not None:
            self.metrics.append(row)
        for callback in self.callbacks:
            callback.on_epoch(self.trainer, row)

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
        at = self.at
        if per_epoch is None:  # nobody knows how long it takes: the rate changes from epoch to epoch
            return self.schedule.rate(at.epoch, self.epochs, at.epoch)
        return self.schedule.rate(at.epoch * per_epoch + at.step, self.epochs * per_epoch, at.epoch)

    def _step(self, batches: list[Batch], per_epoch: int | None) -> None:
        training, at, lr = self.training, self.at, self._rate(per_epoch)
        if not training.ranges.suit("training"):
            self._choose("training", batches[-1])
        try:
            result = training.advance(batches, lr)
        except DivergedError as error:
            raise RunError(
                f"training has diverged: {error.what}",
                where=f"epoch {at.epoch + 1}, step {at.step + 1}",
                fix=f"a learning rate below {lr:.3g}, or clip gradients (clip_norm 1)",
            ) from error
        at.add(result.loss, result.images, result.right, result.scored, lr)
        if training.ranges.outgrown(training.reads):
            self._choose("training", batches[-1])
            at.recalibrations += 1
        accuracy = at.right / at.scored if at.scored else None
        row: Row = {"epoch": at.epoch + 1, "step": training.steps, "lr": lr, "loss": result.loss, "images": result.images}
        row |= {"accuracy": accuracy, "device_writes": training.count.writes.devices}
        for callback in self.callbacks:
            callback.on_step(self.trainer, row)

    def _choose(self, form: Form, batch: Batch | None = None) -> None:
        """Choose ranges anew, on as many images as the source has for that; else on a batch, if there is one."""
        batch = self.source.calibration(self.trainer.calibration_images) or batch
        if batch is not None:
            self.training.ranges.choose(form, batch)

    def _save(self) -> None:
        if self.folder is None:
            return
        self.folder.save(self._state())

    def _state(self) -> Checkpoint:
        state = self.training.state()
        schedule = {f"schedule/{name}": array for name, array in self.schedule.state().items()}
        drawn = self.source.position(self.at.step) if isinstance(self.source, Stream) else ""
        record = {"settings": self.settings, "progress": vars(self.at), "drawn": drawn, **state.record}
        return Checkpoint({**state.arrays, **schedule}, record)

    def _restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint that was checked."""
        self.training.restore(found)
        self.schedule.restore(found.part("schedule"))
        self.at = Progress(**found.record["progress"])
        self.source.begun = self.at.begun
        if isinstance(self.source, Stream):
            self.source.resume(found.record["drawn"])


def _since(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Counts of layers between two looks at them."""
    return {name: {key: count - before[name][key] for key, count in counts.items()} for name, counts in after.items()}
