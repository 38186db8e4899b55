"""Training a chip: forward on its crossbars, gradients, an optimizer, writes to its devices; epochs, checkpoints, evaluation.

`Trainer` holds the options and answers the user. `Training` is what a step changes and counts, with the `Learner` for W, devices
and optimizer, and `Ranges` for the converters. A `Run` is one call of `fit`: the order of steps, its `Progress`, its checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked, within
from cimc.errors import CimcError
from cimc.ir.classes import Classes
from cimc.ir.program import Program, Scales, ValueSpec
from cimc.passes.training.losses import LOSSES
from cimc.runtime.chip import Chip
from cimc.sources import check_alone, is_data
from cimc.training import optimizers, schedules
from cimc.training.batches import is_table
from cimc.training.cost import training_cost
from cimc.training.data import Arrays, Stream, arrays_of, source_of
from cimc.training.expressions import Expressions
from cimc.training.feed import Batch, Feed, Inputs
from cimc.training.history import Callback, History
from cimc.training.initial import Init, initial_states
from cimc.training.learner import Learner
from cimc.training.progress import Progress
from cimc.training.provenance import with_training
from cimc.training.ranges import Ranges
from cimc.training.repeated import check_repeats, told_repeats
from cimc.training.rules import registry as rules
from cimc.training.run import Run
from cimc.training.scores import Scores
from cimc.training.settings import check_limit, check_settings
from cimc.training.step import Step, plan_of, training_program
from cimc.training.trained import in_inference_form
from cimc.training.training import Training, size_of
from cimc.training.window import HE_TRUNCATED, Window


class Trainer:
    """Trains ``chip`` in place; its initial state is made at once.

    Args:
        chip: Untrained, or of a trained program, which goes on from its own state.
        loss: ``softmax_cross_entropy``, ``mse``, ``binary_cross_entropy``, or ``model``; ``:OUTPUT`` where it is not the first.
        class_axis: Axis of the logits along which classes lie, from 1, or counted from the end; None: that of a Softmax that
            ends the model, else the one that the labels' shape leaves.
        ignore_index: Class number of places that do not count, in loss, gradients or accuracy; None: every label counts.
        optimizer: ``sgd``, ``momentum``, ``adam`` or ``adamw``.
        lr: Learning rate at the start.
        batch_size: Images a batch.
        update: ``threshold``, ``residual`` or ``naive``; None: the target's ``update.rule``. Rules that have arrays or fields of
            their own are the target's alone, as the program is compiled for them.
        backward: ``digital``: by the digital weights; ``analog``: on the transposed array.
        seed: Of the order of the data; each run has an order of its own.
        schedule: ``cosine``, ``constant``, ``step`` or ``plateau``.
        init: ``weights``: the model's are programmed; ``devices``: W is read from the devices as they were born. None: a
            trained chip's own state, else ``weights``; but `fit` begins with ``devices`` where the model, in floating point,
            does no better than guessing on its first images (softmax cross-entropy, data in arrays, nothing frozen, and a
            target that says how devices are born). Layers that do not train are always programmed.
        window: Weight that spans the conductance window, in units of the RMS of the weights that are programmed, or of
            ``sqrt(2 / fan_in)`` where devices are read as born; see `cimc.training.window`. None: the target's
            ``update.window_he``, or 2.274, the end of He's truncated normal initialisation, where scales are learnt.
        w_max: Instead of it, the weight itself, the same in every layer: what the paper's scale factor behind the sum amounts to
            where a normalisation follows.
        freeze: Patterns of initializers or layers that do not train.
        trainable: Patterns of those that do; none: all that may.
        ste: ``pass`` or ``clipped``: gradients where the DAC saturates.
        threshold: θ of threshold updates, ε of residual ones, in parts of the largest weight; None: the target's.
        limit: Of residual updates, the sum of steps at which pulses are given, in parts of the largest weight; None: the
            target's ``update.limit_share``, else 1/3.
        clip_norm: Largest global norm of the gradients.
        learn_scales: Digital factors of crossbar layers that train too: ``none``, ``layer`` (one a layer) or ``column`` (one a
            column); None: the target's ``update.scales``. See `cimc.training.scales`.
        scale_lr: Their learning rate at the start, of a relative change; it follows the schedule. None: ``lr``.
        accumulate: Batches whose mean gradient makes a step.
        recalibrate: Share of the last ADC reads that saturated, or of DAC inputs that clipped, from which on input gains and
            ADC ranges are chosen anew; at least twice what the target allows. They are chosen before the first step and after
            each epoch in any case.
        calibration_images: Images that they are chosen on: the first of the random order, of a stream the present batch.
        optimizer_options: Such as ``weight_decay``.
        schedule_options: Such as ``final``.
        callbacks: Told of steps and epochs.
        verify: Check all rules of the training step after each pass that makes it, as `compile_model` does of a program.

    Raises:
        CimcError: An option, the model or the target does not allow it; the message says what to do.
    """

    @checked("chip", "loss", "optimizer", "schedule", "update")
    def __init__(
        self,
        chip: Chip,
        *,
        loss: str = "softmax_cross_entropy",
        class_axis: int | None = None,
        ignore_index: int | None = None,
        optimizer: str = "adamw",
        lr: float = 4e-3,
        batch_size: int = 64,
        update: str | None = None,
        backward: Literal["digital", "analog"] = "digital",
        seed: int = 0,
        schedule: str = "cosine",
        init: Init | None = None,
        window: float | None = None,
        w_max: float | None = None,
        freeze: str | Sequence[str] = (),
        trainable: str | Sequence[str] = (),
        ste: Literal["pass", "clipped"] = "pass",
        threshold: float | None = None,
        limit: float | None = None,
        learn_scales: Scales | None = None,
        scale_lr: float | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        recalibrate: float = 1e-3,
        calibration_images: int = 512,
        optimizer_options: Mapping[str, Any] | None = None,
        schedule_options: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        verify: bool = False,
    ) -> None:
        if not isinstance(chip, Chip):
            raise CimcError(f"a {type(chip).__name__} cannot be trained", fix="give a chip: Trainer(Chip(program))")
        freeze, trainable = ((patterns,) if isinstance(patterns, str) else patterns for patterns in (freeze, trainable))
        for name, value in (("batch_size", batch_size), ("accumulate", accumulate), ("calibration_images", calibration_images)):
            within(name, value, 1, 2**31, whole=True)
        within("recalibrate", recalibrate, 0, 1)
        check_numbers(threshold, clip_norm, limit)
        within("seed", seed, 0, 2**63, whole=True)
        self.chip, self.batch_size, self.seed, self.accumulate = chip, batch_size, seed, accumulate
        self.callbacks, self.calibration_images = list(callbacks), calibration_images
        program, switched = in_inference_form(chip.program)
        if switched:
            chip.adopt(program)
        scales = program.target.update.scales if learn_scales is None else learn_scales
        if scale_lr is not None:
            within("scale_lr", scale_lr, 0, inf, open_high=True)
            if scales == "none":
                raise CimcError("scale_lr is given, but no scales train", fix="learn_scales='layer', or leave scale_lr out")
        check_limit(program.target, update, limit)
        shares = {"threshold_share": threshold, "limit_share": limit}
        rule = rules.create(program.target, update, **{name: share for name, share in shares.items() if share is not None})
        check_repeats(program, rule)
        self._schedule = partial(schedules.create, schedule, lr, **(schedule_options or {}))
        self._lr = self._schedule().lr
        if chip.forget_fits():
            switched.append(
                "scales and offsets that were fitted to outputs of this chip are dropped: training changes its weights"
            )
        own_state = bool(chip.memory) and init is None  # it brings ranges too
        span, self._init = Window(window, w_max), "trained" if own_state else init or "weights"
        told = [*switched, *check_settings(program.target, rule, span, threshold, own_state, backward)]
        if scales != "none" and span == Window():  # what is learnt needs no fitted start
            span = Window(HE_TRUNCATED)
        classes = check_loss(loss, class_axis, ignore_index)

        def shaped(lying: Classes) -> tuple[Program, list[str]]:
            options: dict[str, Any] = {
                "trainable": trainable,
                "frozen": freeze,
                "backward": backward,
                "ste": ste,
                "scales": scales,
                "verify": verify,
            }
            made = training_program(program, loss=loss, classes=lying, **options)
            return made, [*told, *made.provenance.notes[len(program.provenance.notes) :]]

        self._shaped = shaped
        training, self.notes = shaped(classes)
        self._model_notes = len(self.notes)
        step = Step(training, chip)
        through = Expressions(training, program)
        through.check(rule, init)
        fresh = init is None and not chip.memory and not freeze and not through.into
        self._may_forget = fresh and program.target.device.born_us is not None

        def learner(start: Init | None) -> Learner:
            own = optimizers.create(optimizer, **(optimizer_options or {}))
            rules.check(rule, own)
            states = initial_states(chip, step.trained_layers, start, span, self.notes)
            rate = 1.0 if scale_lr is None or not self._lr else scale_lr / self._lr
            made = Learner(chip, step, states, rule, own, clip_norm, rate, through)
            self.notes += made.scales.notes()
            return made

        self._learner_from = learner
        self._feed = Feed.of(program, training, loss, classes, self._settle)
        scores = Scores(loss, program, self._feed.labels.classes if self._feed.labels is not None else None)
        first = learner(init)  # it may make new crossbars, whose reads count from zero
        self._training = Training(chip, step, first, Ranges(chip, step, recalibrate, own_state), scores)
        self._feed.check_batch(batch_size)
        self._settings: dict[str, Any] = {
            "model": program.provenance.model_sha256, "target": program.target.model_dump(mode="json"), "chip seed": chip.seed,
            "loss": loss, "class axis": class_axis, "ignore index": ignore_index, "optimizer": optimizer,
            "optimizer options": dict(optimizer_options or {}), "learning rate": lr,
            "batch size": batch_size, "update": update, "backward": backward, "seed": seed, "schedule": schedule,
            "schedule options": dict(schedule_options or {}), "init": init, "window": span.he, "w_max": w_max,
            "freeze": list(freeze), "trainable": list(trainable), "ste": ste, "threshold": threshold, "limit": limit,
            "learn scales": learn_scales, "scale learning rate": scale_lr,
            "clip norm": clip_norm,
            "accumulate": accumulate, "recalibrate": recalibrate, "calibration images": calibration_images,
            **told_repeats(program),
        }  # fmt: skip
        self._told = False

    def _settle(self, classes: Classes) -> ValueSpec:
        """Take a training step for labels that lie so."""
        step, scores = self._training.step, self._training.scores
        if classes != scores.classes:
            program, notes = self._shaped(classes)
            step.take(program)
            scores.classes = classes
            self.notes[: self._model_notes], self._model_notes = notes, len(notes)
        return next(spec for spec in step.program.inputs if spec.name == step.program.labels)

    @property
    def steps(self) -> int:
        """Done so far."""
        return self._training.steps

    # Steps --------------------------------------------------------------------------------------------------------

    @checked()
    def step(self, x: Inputs, y: Any = None, lr: float | None = None) -> float:
        """One step on one batch; the loss before it.

        Args:
            x: Images as the model takes them, or arrays by input name.
            y: Labels; None where the model computes its loss.
            lr: Learning rate; None: the initial one.

        Raises:
            DataError: Data do not suit the model.
            RunError: The loss is not finite.
        """
        if lr is not None:
            within("lr", lr, 0, inf, open_high=True)
        batch = self._ready(x, y)
        if not self._told:
            self._tell({}, "the present batch")
        return self._training.advance([batch], self._lr if lr is None else lr).loss

    @checked()
    def gradients(self, x: Inputs, y: Any = None) -> dict[str, NDArray[Any]]:
        """Gradient of the mean loss by initializer name, as one step on this batch would use it; nothing is changed."""
        return self._training.learner.by_initializer(self._training.gradients(self._ready(x, y)))

    def _ready(self, x: Inputs, y: Any) -> Batch:
        """The batch, with ranges that suit it."""
        batch = self._feed.batch(x, y)
        self._training.suit("training", batch)
        return batch

    # Runs ---------------------------------------------------------------------------------------------------------

    @checked()
    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        steps_per_epoch: int | None = None,
        validation: Any = None,
        checkpoint: str | Path | None = None,
        checkpoint_steps: int | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train.

        Args:
            x: Images, arrays by input name, or any iterable of batches (or a function of the epoch that gives one), such as a
                loader: each is ``(x, y)``, ``(x1, x2, y)`` or a dict of inputs by name with ``labels``
                (`cimc.training.batches`). Or a table of examples, such as a ``datasets.Dataset``, whose columns have the names
                of the inputs. Or data with labels, as `open_data` takes them: an npz file, a folder of images, the name of a
                data set. Of these, the training part.
            y: Labels, where ``x`` is arrays.
            epochs: How many.
            steps_per_epoch: Random batches that make an epoch; None: all data once.
            validation: Images and labels to evaluate on after each epoch; or a table;
                or data, of which the test part is taken.
            checkpoint: Folder for ``checkpoint.safetensors``, written after each epoch, and ``metrics.jsonl``.
            checkpoint_steps: Write it also every so many steps.
            resume: Go on from the folder's checkpoint, if there is one.
            callbacks: Beside those of the trainer.

        Raises:
            DataError: Data or labels do not suit the model; nothing has changed then.
            ArtifactError: The checkpoint is that of another run, or damaged.
            CimcError: Another run has the folder.
            RunError: Training diverged, or a checkpoint cannot be written; the last one is intact.
        """
        within("epochs", epochs, 1, 2**31, whole=True)
        if resume and checkpoint is None:
            raise CimcError("there is no folder to resume from", fix="give checkpoint")
        if checkpoint_steps is not None:
            within("checkpoint_steps", checkpoint_steps, 1, 2**31, whole=True)
        per_epoch = None if steps_per_epoch is None else steps_per_epoch * self.accumulate
        if is_data(x):
            check_alone(x, y, "fit")
            x, y = self._feed.of_data(x, "train")
        if is_data(validation):
            validation = self._feed.of_data(validation, "test")
        if is_table(validation):
            validation = (validation, None)
        if validation is not None and not (isinstance(validation, tuple | list) and len(validation) == 2):
            raise CimcError("validation is no pair of images and labels", fix="give (x, y), or data")
        labels = self._feed.labels
        first = labels is not None and labels.before is None
        run, opened = None, False
        try:
            source = source_of(self._feed, x, y, self.batch_size, self.seed, per_epoch)
            source.begun = self.chip.draws.trained
            tests = None if validation is None else arrays_of(self._feed, validation[0], validation[1], "validation")
            if (odd := source.odd()) is not None:
                self._training.step.check(odd[0])
            told, data = [*self.callbacks, *callbacks], source.fingerprint()
            run = Run(
                self, self._training, source, tests, epochs, self._schedule(), told, checkpoint_steps, Progress(source.begun)
            )
            if checkpoint is not None:
                test = None if tests is None else tests.fingerprint()
                same = {**self._settings, "steps per epoch": per_epoch, "data": data, "test data": test}
                run.open(checkpoint, resume, same)
            opened = True
            self._start(source, {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "data": data}, checkpoint is not None)
            run.begin()
            run.go()
        finally:
            if run is not None:
                run.close()
            if labels is not None and first and not opened:
                labels.forget()  # the next run may have labels that lie otherwise
        return History(
            run.rows,
            [*self.notes, *(f"in the last epoch, {text}" for text in run.clipping), *self._training.learner.notes()],
            self.cost(),
        )

    def _start(self, source: Arrays | Stream, run: Mapping[str, Any], kept: bool) -> None:
        """Forget what only the run before needs, and say how this one goes.

        Args:
            source: Of batches.
            run: What the program is to say of it.
            kept: Whether it has checkpoints.
        """
        self._training.ranges.forget()
        if self._may_forget and isinstance(source, Arrays) and self.steps == 0:
            self._forget(source)
        if isinstance(source, Stream) and source.length is None and self._schedule().by_step:
            source.count()
            if source.length is None:
                self._note("the number of batches is not known: the rate changes from epoch to epoch (give steps_per_epoch)")
        images = source.calibration(self.calibration_images)
        basis = f"{size_of(images)} training images" if images else "the present batch"
        if not self.chip.program.target.is_ideal:
            self._note(f"input gains and ADC ranges are chosen on the chip, from {basis}")
        self._tell(run, basis)
        if kept and not source.known:
            self._note("the data come as a stream: a resumed run can only check the batches that it draws again")

    def _note(self, text: str) -> None:
        """Say something, once however often `fit` is called."""
        if text not in self.notes:
            self.notes.append(text)

    def _forget(self, source: Arrays) -> None:
        """Start from the devices as born where the model's weights, in floating point, do no better than guessing."""
        self._may_forget = False
        if self._training.scores.knows(self.chip.program, *source.some(self.calibration_images)):
            return
        del self.notes[self._model_notes :]  # what was said of programming its weights
        self.notes.append(
            "the model's weights do no better than guessing: W starts as read from the devices as they were born "
            "(init weights programs the model's)"
        )
        self._training.learner, self._init = self._learner_from("devices"), "devices"

    def _tell(self, run: Mapping[str, Any], calibration: str) -> None:
        """Let the chip's program say how it is trained."""
        self.chip.program = with_training(self.chip.program, self._settings, self._init, run, calibration)
        self._told = True

    @checked()
    def evaluate(self, x: Inputs, y: Any = None, batch: int = 256) -> dict[str, Any]:
        """Loss and accuracy on the chip in inference form; ``accuracy`` is null where the loss is no classification.

        Raises:
            DataError: Data do not suit the model.
        """
        return self._training.evaluate(arrays_of(self._feed, x, y, "evaluation"), batch)

    def program(self) -> Program:
        """The trained program, with the chip's state in it."""
        return self.chip.trained_program()

    def plan(self) -> list[dict[str, Any]]:
        """What trains: a row for each real initializer of the model.

        Returns:
            Rows of ``name``, ``where`` (``crossbar`` or ``digital``), ``shape``, ``trains``, ``why`` (its role, or why it
            does not train) and ``shared_by`` (names of nodes, where several share it).
        """
        return plan_of(self._training.step.program)

    def weights(self) -> dict[str, NDArray[Any]]:
        """What trains, as it is now, by initializer name: crossbar weights (W), digital parameters, running statistics.

        Of a weight that is computed from parameters, these parameters.
        """
        learner = self._training.learner
        return {name: value for name, value in learner.values().items() if name not in learner.through.weights}

    def scales(self) -> dict[str, NDArray[np.float32]]:
        """The weight that spans the conductance window, by trained layer: ``[groups, columns]``, learnt or not."""
        return {name: state.w_max.copy() for name, state in self._training.learner.states.items()}

    def cost(self) -> dict[str, Any]:
        """Of all training steps so far; see `cimc.training.cost`."""
        return training_cost(self._training.step.program, self._training.count)


def check_numbers(threshold: float | None, clip_norm: float | None, limit: float | None = None) -> None:
    """See that these options, where given, are in their ranges.

    Raises:
        CimcError: One is not.
    """
    for name, share in (("threshold", threshold), ("limit", limit)):
        if share is not None:
            within(name, share, 0, inf, open_high=True)
    if clip_norm is not None:
        within("clip_norm", clip_norm, 1e-30, inf)


def check_loss(loss: str, axis: int | None, ignore: int | None) -> Classes:
    """How labels are to lie, as far as options say.

    Raises:
        CimcError: There is no such loss, an option is no whole number, or the loss has no classes.
    """
    if isinstance(loss, str) and loss.partition(":")[0] not in LOSSES:
        raise CimcError(
            f"no loss is called {loss.partition(':')[0]}",
            fix=f"the losses are {', '.join(LOSSES)}; add :OUTPUT to choose an output",
        )
    for name, value in (("class_axis", axis), ("ignore_index", ignore)):
        if value is None:
            continue
        within(name, value, -(2**31), 2**31, whole=True)
        if isinstance(loss, str) and not loss.startswith("softmax_cross_entropy"):
            raise CimcError(f"{name} is given, but the loss {loss} has no classes", fix=f"leave {name} out")
    return Classes(axis, ignore=ignore)
