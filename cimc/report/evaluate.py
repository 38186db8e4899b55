"""Accuracy of a classifier on one chip, beside ONNX Runtime's on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Evaluation:
    """Shares of labels that are met; ``agreement`` of those on which chip and ONNX Runtime say the same."""

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
    """The same after each of the times asked for; ``accuracy`` and ``agreement`` are those of the first."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    program: Program,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    seed: int = 0,
    batch: int = 256,
    reference: Model | None = None,
    advance: Callable[[int], None] | None = None,
    time_s: Sequence[float] = (0.0,),
    backend: str = "cpu",
    classes: Classes | None = None,
) -> Evaluation:
    """Classify ``x`` on one chip.

    Args:
        program: Its first output holds a score for each class.
        x: Images, along the first axis, as the model wants them but for the program's preprocessing.
        y: Class numbers, ``[images]``; or one a place, of the output's shape without the axis of the classes.
        seed: Of the chip.
        batch: Images a run.
        reference: Run by ONNX Runtime on the same images; None: the program's own graph, with its weights.
        advance: Told the number of images after each batch.
        classes: Axis of the classes, where the labels' shape does not tell it, and the class number of places that do not count.
        time_s: Times (s) that pass before the images are classified, not falling; each counts from the beginning.
        backend: What computes the reads, see `Chip`.

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
    for time in time_s:
        chip.advance(begun + time - chip.time_s)
        right = agree = 0
        for first in range(0, total, batch):
            images = preprocess(x[first : first + batch], program.preprocessing)
            here, labels = slice(first, first + batch), y[first : first + batch]
            scores = next(iter(chip.run({name: images}, first).values()))
            found = said(scores, labels, how)
            if not aged:
                beside = runner.run({name: images})[output]
                same_shape(output, beside, scores)
                expected[here] = said(beside, labels, how)
            right += int(((found == labels) & judged[here]).sum())
            agree += int(((expected[here] == found) & judged[here]).sum())
            if advance is not None:
                advance(len(labels))
        aged.append(Aged(time, right / labelled, agree / labelled))
    stats = chip.stats()
    return Evaluation(
        images=total,
        labels=labelled,
        accuracy=aged[0].accuracy,
        reference_accuracy=int(((expected == y) & judged).sum()) / labelled,
        agreement=aged[0].agreement,
        seed=seed,
        stats=stats,
        notes=clipping_notes(stats, program),
        times=tuple(aged),
    )


def said(scores: Any, labels: NDArray[Any], how: Classes) -> NDArray[Any]:
    """The class of the highest score, of the labels' shape.

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
    classes: NDArray[Any] = scores.argmax(axis=axis)
    return classes
