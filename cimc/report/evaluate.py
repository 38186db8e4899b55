"""Accuracy of a classifier on one chip, beside ONNX Runtime's on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import from_proto

from cimc.compiler import Model
from cimc.data import needed_inputs, preprocess
from cimc.errors import DataError
from cimc.frontend.load import load
from cimc.ir.onnx_io import session, split
from cimc.ir.program import Program
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
    """Shares of images classified right; ``agreement`` of images on which chip and ONNX Runtime say the same."""

    images: int
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
) -> Evaluation:
    """Classify ``x`` on one chip.

    Args:
        program: Its first output holds a score for each class along the last axis.
        x: Images, along the first axis, as the model wants them but for the program's preprocessing.
        y: Class numbers, ``[images]``.
        seed: Of the chip.
        batch: Images a run.
        reference: Run by ONNX Runtime on the same images; None: the program's own graph, with its weights.
        advance: Told the number of images after each batch.
        time_s: Times (s) that pass before the images are classified, not falling; each counts from the beginning.
        backend: What computes the reads, see `Chip`.

    Raises:
        DataError: The images do not suit the model, or a label is no class of it.
    """
    needed = needed_inputs(program.inputs)
    if len(needed) != 1:
        raise DataError(f"the model has {len(needed)} inputs, accuracy is defined for one", fix="use `cimc run`")
    name = needed[0].name
    chip = Chip(program, seed, backend=backend)
    model = from_proto(program.to_onnx()) if reference is None else load(reference).model
    runner = session(*split(model), optimise=True)
    wanted = {value.name for value in runner.get_inputs()}
    bound = {name: value for name, value in program.bound_values().items() if name in wanted}
    total, begun, expected = len(x), chip.time_s, np.zeros(len(x), np.int64)
    aged: list[Aged] = []
    for time in time_s:
        chip.advance(begun + time - chip.time_s)
        right = agree = 0
        for first in range(0, total, batch):
            images = preprocess(x[first : first + batch], program.preprocessing)
            here, labels = slice(first, first + batch), y[first : first + batch]
            scores = next(iter(chip.run({name: images}, first).values()))
            said = _classes(scores, labels)
            if not aged:
                expected[here] = _classes(runner.run([program.outputs[0].name], bound | {name: images})[0], labels)
            right += int((said == labels).sum())
            agree += int((expected[here] == said).sum())
            if advance is not None:
                advance(len(labels))
        aged.append(Aged(time, right / total, agree / total))
    stats = chip.stats()
    return Evaluation(
        images=total,
        accuracy=aged[0].accuracy,
        reference_accuracy=int((expected == y).sum()) / total,
        agreement=aged[0].agreement,
        seed=seed,
        stats=stats,
        notes=clipping_notes(stats, program.target),
        times=tuple(aged),
    )


def _classes(scores: Any, labels: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(scores, np.ndarray) or scores.ndim < 2 or len(scores) != len(labels):
        raise DataError("the model's first output holds no score for each class of each image", fix="use `cimc run`")
    flat = scores.reshape(len(scores), -1)
    if labels.size and int(labels.max()) >= flat.shape[1]:
        raise DataError(f"label {int(labels.max())}, but the model has {flat.shape[1]} classes", where="y")
    classes: NDArray[Any] = flat.argmax(axis=1)
    return classes
