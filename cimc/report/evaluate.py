"""Accuracy and other metrics on one chip, beside ONNX Runtime's on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import from_proto

from cimc.compiler import Model
from cimc.data import one_input, preprocess
from cimc.errors import DataError
from cimc.frontend.load import load
from cimc.ir.classes import Classes, laid_out
from cimc.ir.program import Program
from cimc.report.metrics import Meter, as_targets
from cimc.report.reference import Reference, named, same_shape
from cimc.runtime.chip import Chip
from cimc.runtime.clipping import clipping_notes


@dataclass(frozen=True)
class Aged:
    """What a chip of some age comes to."""

    time_s: float
    """Time that passed before, s."""
    accuracy: float
    agreement: float
    metrics: dict[str, Any] = field(default_factory=dict)
    """Other figures on the chip, as `cimc.report.metrics.Meter.values` has them."""


@dataclass(frozen=True)
class Evaluation:
    """Shares of labels that are met; ``agreement`` of those on which chip and ONNX Runtime say the same. NaN of a regression."""

    images: int
    labels: int
    """Places that count: images, or of several labels an image all that are not ignored."""
    accuracy: float
    reference_accuracy: float
    agreement: float
    seed: int
    stats: dict[str, Any]
    notes: list[str]
    """Layers that clip or saturate."""
    times: tuple[Aged, ...] = ()
    """The same after each of the times asked for; ``accuracy``, ``agreement`` and ``metrics`` are those of the first."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """By metric: its figures on the ``chip``, and of the ``reference``, ONNX Runtime."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what is NaN is null."""
        told = asdict(self)
        for row in (told, *told["times"]):
            row |= {name: None for name, value in row.items() if isinstance(value, float) and isnan(value)}
        return told


def evaluate(
    program: Program,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    seed: int = 0,
    batch: int = 256,
    reference: Model | None = None,
    advance: Callable[[int], None] | None = None,
    live: Callable[[str], None] | None = None,
    time_s: Sequence[float] = (0.0,),
    backend: str = "cpu",
    classes: Classes | None = None,
    metrics: Sequence[str] = ("accuracy",),
) -> Evaluation:
    """Run ``x`` on one chip, and compare its first output with labels.

    Args:
        program: Its first output holds a score for each class, or the numbers of a regression.
        x: Images, along the first axis, as the model wants them but for the program's preprocessing.
        y: Class numbers, ``[images]``; or one a place, of the output's shape without the axis of the classes. Of a regression:
            targets, of the output's shape but for axes of length 1.
        seed: Of the chip.
        batch: Images a run.
        reference: Run by ONNX Runtime on the same images; None: the program's own graph, with its weights.
        advance: Told the number of images after each batch.
        live: Told the metrics so far after each batch, in words.
        classes: Axis of the classes, where the labels' shape does not tell it, and the class number of places that do not count.
        time_s: Times (s) that pass before the images are classified, not falling; each counts from the beginning.
        backend: What computes the reads, see `Chip`.
        metrics: Names, of `cimc.report.metrics.OF_CLASSES` or of `OF_NUMBERS`.

    Raises:
        DataError: The images do not suit the model, a label is no class of it, or the reference is another network's.
    """
    name = one_input(program.inputs, "", "use `cimc run`").name
    chip = Chip(program, seed, backend=backend)
    output, bound = program.outputs[0].name, program.bound_values()
    model = from_proto(program.to_onnx()) if reference is None else load(reference).model
    runner = Reference(model, named(reference), [name], [output], bound=bound)
    how = classes or Classes()
    judged = np.ones(y.shape, np.bool_) if how.ignore is None else y != how.ignore
    total, begun, expected, labelled = len(x), chip.time_s, np.zeros(y.shape, np.int64), int(judged.sum())
    if not labelled:
        raise DataError("every label is ignored", where="y", fix="another ignore_index, or other data")
    aged: list[Aged] = []
    beside = Meter(metrics)
    for time in time_s:
        chip.advance(begun + time - chip.time_s)
        meter, agree = Meter(metrics), 0
        for first in range(0, total, batch):
            images = preprocess(x[first : first + batch], program.preprocessing)
            here, labels = slice(first, first + batch), y[first : first + batch]
            scores = next(iter(chip.run({name: images}, first).values()))
            found = measure(meter, scores, labels, how)
            if not aged:
                reference_scores = runner.run({name: images})[output]
                same_shape(output, reference_scores, scores)
                expected[here] = measure(beside, reference_scores, labels, how)
            agree += int(((expected[here] == found) & judged[here]).sum())
            if advance is not None:
                advance(len(labels))
            if live is not None:
                live(meter.told())
        accuracy, agreement = (meter.right / labelled, agree / labelled) if meter.of_classes else (nan, nan)
        aged.append(Aged(time, accuracy, agreement, meter.values()))
    stats, reference_values = chip.stats(), beside.values()
    return Evaluation(
        images=total,
        labels=labelled,
        accuracy=aged[0].accuracy,
        reference_accuracy=beside.right / labelled if beside.of_classes else nan,
        agreement=aged[0].agreement,
        seed=seed,
        stats=stats,
        notes=clipping_notes(stats, program),
        times=tuple(aged),
        metrics={word: {"chip": value, "reference": reference_values[word]} for word, value in aged[0].metrics.items()},
    )


def measure(meter: Meter, scores: Any, labels: NDArray[Any], how: Classes) -> NDArray[Any]:
    """Let a meter take in a batch.

    Args:
        meter: Of classes or of numbers.
        scores: A model's first output, images along the first axis.
        labels: Class numbers, or targets.
        how: As `said`.

    Returns:
        As `said`; zeros of a regression, which says no class.

    Raises:
        DataError: As `said`, `Meter.add_classes` and `Meter.add_numbers`.
    """
    if not meter.of_classes:
        if not isinstance(scores, np.ndarray):
            raise DataError("the model's first output is no array", where="y", fix="use `cimc run`")
        meter.add_numbers(scores, as_targets(labels, scores))
        return np.zeros(labels.shape, np.int64)
    scores, axis = class_scores(scores, labels, how)
    found: NDArray[Any] = scores.argmax(axis=axis)
    judged = np.ones(labels.shape, np.bool_) if how.ignore is None else labels != how.ignore
    meter.add_classes(scores, axis, found, labels, judged)
    return found


def said(scores: Any, labels: NDArray[Any], how: Classes) -> NDArray[Any]:
    """The class of the highest score, of the labels' shape; arguments and errors as `class_scores`."""
    scores, axis = class_scores(scores, labels, how)
    classes: NDArray[Any] = scores.argmax(axis=axis)
    return classes


def class_scores(scores: Any, labels: NDArray[Any], how: Classes) -> tuple[NDArray[Any], int]:
    """Scores, and the axis along which classes lie; of one label an image, ``[images, classes]``.

    Args:
        scores: A model's first output, images along the first axis.
        labels: Class numbers, ``[images]`` or one a place.
        how: Axis of the classes, and the class number of places that do not count.

    Raises:
        DataError: The scores have no class axis that suits the labels, or a label is no class.
    """
    if not isinstance(scores, np.ndarray) or scores.ndim < 2 or len(scores) != len(labels):
        raise DataError("the model's first output holds no score for each class of each image", where="y", fix="use `cimc run`")
    if how.axis is not None and not (-scores.ndim < how.axis < scores.ndim and how.axis):
        fix = f"class_axis={scores.ndim - 1} (--class-axis {scores.ndim - 1}) is the last one"
        raise DataError(f"classes cannot lie along axis {how.axis} of scores {list(scores.shape)}", where="y", fix=fix)
    if labels.ndim == 1 and how.axis is None:
        scores, axis = scores.reshape(len(scores), -1), 1
    else:
        axes = range(1, scores.ndim) if how.axis is None else (how.axis % scores.ndim,)
        found = laid_out(labels, scores.shape, tuple(axes), how.ignore, "y").axis
        assert found is not None  # it names one of the axes, or raises
        axis = found
    judged = labels if how.ignore is None else labels[labels != how.ignore]
    if judged.size and int(judged.max()) >= scores.shape[axis]:
        raise DataError(f"label {int(judged.max())}, but the model has {scores.shape[axis]} classes", where="y")
    return scores, axis
