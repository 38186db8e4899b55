"""A chip in training: what a step changes and counts, between the trainer's options and the order of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from numpy.typing import NDArray

from cimc.errors import DataError
from cimc.runtime.chip import Chip
from cimc.runtime.rank_one import Vectors
from cimc.training.checkpoint import Checkpoint
from cimc.training.cost import Count
from cimc.training.data import Arrays
from cimc.training.feed import Batch
from cimc.training.learner import DivergedError, Learner
from cimc.training.ranges import Form, Ranges
from cimc.training.scores import Scores
from cimc.training.step import Step, StepResult


@dataclass(frozen=True)
class Advanced:
    """What a step of some batches came to, all of them together."""

    loss: float
    """Mean over the images."""
    images: int
    right: int
    """Predictions that are right, of those that count."""
    scored: int


class Training:
    """One chip, its training step and all that goes on from step to step.

    Args:
        chip: It is trained in place.
        step: Of its training program.
        learner: Takes the gradients.
        ranges: The chip's input gains and ADC ranges.
        scores: Loss and accuracy of its outputs.

    Attributes:
        steps: So far.
        count: What the steps have done.
        reads: What the crossbars had done after the last step.
    """

    def __init__(self, chip: Chip, step: Step, learner: Learner, ranges: Ranges, scores: Scores) -> None:
        self.chip, self.step, self.learner, self.ranges, self.scores = chip, step, learner, ranges, scores
        self.steps, self.count, self.reads = 0, Count(), ranges.reads()

    def suit(self, form: Form, batch: Batch) -> None:
        """Have ranges that suit a form of the model, if need be from this batch."""
        if not self.ranges.suit(form):
            self.ranges.choose(form, batch)

    def gradients(self, batch: Batch) -> StepResult:
        """Loss and gradients, as the next step would find them; nothing is changed."""
        return self.step.run(*batch, self.chip.draws.trained)

    def advance(self, batches: Sequence[Batch], lr: float) -> Advanced:
        """One step by the mean gradient of some batches.

        Raises:
            DivergedError: A loss, gradient or change is not finite; no weight or device has changed then.
            DataError: Every label of a batch is ignored.
        """
        total: dict[str, NDArray[Any]] = {}
        vectors: dict[str, list[Vectors]] = {}
        before, found = self.ranges.reads(), list[Advanced]()
        for batch in batches:
            if not self.scores.counted(batch[1], 1):
                raise DataError(
                    "every label of a batch is ignored", where="labels", fix="a larger batch, or leave such images out"
                )
            result = self.step.run(*batch, self.chip.draws.trained, vectors=self.learner.rule.takes == "vectors")
            if not isfinite(result.loss):
                raise DivergedError(f"the loss is {result.loss}")
            for name, gradient in self.learner.gradients(result).items():
                share = gradient / gradient.dtype.type(len(batches)) if len(batches) > 1 else gradient
                total[name] = total[name] + share if name in total else share
            for name, parts in result.vectors.items():
                vectors.setdefault(name, []).extend(part.scaled(1 / len(batches)) for part in parts)
            found.append(Advanced(result.loss, size_of(batch), *self.scores.right(result.outputs, batch[1])))
            self.learner.assign(result.statistics)
            self.chip.draws.trained += size_of(batch)
            self.count.images += size_of(batch)
        self.count.writes += self.learner.update(total, lr, vectors)
        self.reads = self.ranges.reads()
        self.count.add(before, self.reads)
        self.steps += 1
        return found[0] if len(found) == 1 else _together(found)

    def evaluate(self, source: Arrays, size: int = 256) -> dict[str, Any]:
        """Loss and accuracy of the inference form, ``size`` images at a time; see `Trainer.evaluate`."""
        fixed = source.feed.fixed_batch
        size = fixed or size
        loss, whole, right, scored, images, stream = 0.0, 0, 0, 0, 0, self.chip.draws.evaluation()
        for first in range(0, source.images - (source.images % size if fixed else 0), size):
            batch = inputs, labels = source.taken(slice(first, first + size))
            self.suit("inference", batch)
            outputs = self.chip.run(inputs, first, stream=stream)
            if share := self.scores.counted(labels, size_of(batch)):
                loss, whole = loss + self.scores.loss(outputs, labels) * share, whole + share
            hit, judged = self.scores.right(outputs, labels)
            right, scored, images = right + hit, scored + judged, images + size_of(batch)
        if not whole:
            raise DataError("every label is ignored", where=f"{source.where}, labels", fix="another ignore_index, or other data")
        return {"images": images, "loss": loss / whole, "accuracy": right / scored if scored else None}

    def state(self) -> Checkpoint:
        """All of it; arrays are those of the training."""
        chip, (arrays, ranges) = self.chip.state(), self.learner.state()
        own = {"steps": self.steps, **self.ranges.state(), "count": self.count.to_dict(), "fitted": chip.fitted}
        own |= {"ranges": ranges, "input_ranges": {spec.name: spec.range for spec in self.chip.program.inputs}}
        return Checkpoint({**arrays, **chip.tensors()}, {**own, "stats": self.chip.stats()})

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ArtifactError: It does not suit the model, the target or the optimizer.
        """
        record, program = found.record, self.chip.program
        bounds = {name: None if pair is None else tuple(pair) for name, pair in record["input_ranges"].items()}
        inputs = tuple(spec.model_copy(update={"range": bounds[spec.name]}) for spec in program.inputs)
        self.chip.program = program.model_copy(update={"inputs": inputs})
        self.learner.restore(found.arrays, record["ranges"], found.chip_state(self.chip.program))
        self.chip.restore_stats(record["stats"])
        self.steps, self.count = record["steps"], Count.of(record["count"])
        self.ranges.restore(record)


def size_of(batch: Batch) -> int:
    """Images in a batch."""
    return len(next(iter(batch[0].values())))


def _together(parts: Sequence[Advanced]) -> Advanced:
    images, right, scored = (sum(getattr(part, name) for part in parts) for name in ("images", "right", "scored"))
    return Advanced(sum(part.loss * part.images for part in parts) / images, images, right, scored)
