"""One piece of work: a die at one setting, at each of some times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.data import needed_inputs, preprocess
from cimc.errors import DataError
from cimc.image.image import Image
from cimc.ir.classes import Classes
from cimc.ir.program import Program
from cimc.population.settings import with_settings
from cimc.report.evaluate import measure
from cimc.report.metrics import Meter, number_of
from cimc.runtime.chip import Chip

Array = NDArray[Any]


@dataclass(frozen=True)
class Work:
    """What all pieces of one study share; it goes to each worker once.

    Attributes:
        programs: Compiled programs, or images; a setting names one by number.
        x: Images, along the first axis, as the model wants them but for the program's preprocessing.
        y: Class numbers.
        expected: What ONNX Runtime says of them, like ``y``, of each program.
        classes: Axis of the classes, and the class number of places that do not count.
        times: Times (s) at which a die is evaluated, not falling.
        batch: Images a run.
        metric: Name of the figure of a die, of `cimc.report.metrics.SCALARS`.
        fitted: Inputs by name that the outputs of each die are fitted on, in batches; empty: they are not.
    """

    programs: tuple[Program | Image, ...]
    x: Array
    y: Array
    expected: tuple[Array, ...]
    classes: Classes
    times: tuple[float, ...]
    batch: int
    fitted: tuple[Mapping[str, Array], ...] = ()
    metric: str = "accuracy"


@dataclass(frozen=True)
class Piece:
    """A die at one setting."""

    point: int
    """Number of the setting."""
    program: int
    seed: int
    settings: Mapping[str, Any]
    """Fields of the target that differ from the program's."""

    @property
    def key(self) -> tuple[int, int]:
        """Setting and die."""
        return self.point, self.seed


@dataclass(frozen=True)
class Found:
    """What a piece came to at each time: the metric, and the share of labels of which chip and ONNX Runtime say the same."""

    point: int
    seed: int
    accuracies: tuple[float, ...]
    agreements: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "point": self.point, "seed": self.seed, "accuracies": list(self.accuracies), "agreements": list(self.agreements),
        }  # fmt: skip


def chip_of(source: Program | Image, seed: int, settings: Mapping[str, Any]) -> Chip:
    """A die of a program or of an image.

    Raises:
        CimcError: The settings change what was compiled.
    """
    if isinstance(source, Image):
        if settings:
            raise DataError("an image is for the chip that it was made for", where="settings", fix="sweep the program instead")
        return source.program(seed=seed)
    return Chip(with_settings(source, settings), seed)


def run_piece(work: Work, piece: Piece) -> Found:
    """Evaluate one die. The same bytes wherever it runs, and whatever ran before.

    Raises:
        CimcError: The die cannot be made, or does not take the images.
    """
    chip = chip_of(work.programs[piece.program], piece.seed, piece.settings)
    if work.fitted:
        chip.fit_outputs(list(work.fitted))
    name = needed_inputs(chip.program.inputs)[0].name
    judged = np.ones(work.y.shape, np.bool_) if work.classes.ignore is None else work.y != work.classes.ignore
    expected, total, begun = work.expected[piece.program], max(1, int(judged.sum())), chip.time_s
    accuracies, agreements = [], []
    for time_s in work.times:
        chip.advance(begun + time_s - chip.time_s)
        meter, agree = Meter([work.metric]), 0
        for first in range(0, len(work.x), work.batch):
            here = slice(first, first + work.batch)
            scores = next(iter(chip.run({name: preprocess(work.x[here], chip.program.preprocessing)}, first).values()))
            found = measure(meter, scores, work.y[here], work.classes)
            agree += int(((found == expected[here]) & judged[here]).sum())
        accuracies.append(number_of(meter))
        agreements.append(agree / total if meter.of_classes else nan)
    return Found(piece.point, piece.seed, tuple(accuracies), tuple(agreements))


def pieces_of(
    points: Sequence[tuple[int, Mapping[str, Any]]], seeds: Sequence[int], own: Mapping[int, Mapping[str, Any]] | None = None
) -> list[Piece]:
    """A piece for each die at each setting; settings are pairs of program number and fields, ``own`` are those of a seed."""
    of = own or {}
    return [
        Piece(n, program, seed, {**fields, **of.get(seed, {})}) for n, (program, fields) in enumerate(points) for seed in seeds
    ]
