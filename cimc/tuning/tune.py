"""`cimc.tune`: find how a network keeps its accuracy on a chip, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from cimc.arguments import checked, within
from cimc.compiler import Model, compile_model
from cimc.data import labelled, needed_inputs, one_input, preprocess
from cimc.errors import DataError
from cimc.fingerprint import fingerprint
from cimc.ir.program import Preprocessing, Program, ValueSpec
from cimc.passes.base import Compilation
from cimc.report.calibrate import fixed_batch
from cimc.runtime.chip import Chip
from cimc.shown import Shown
from cimc.sources import Data, check_alone, is_data, open_data
from cimc.targets.description import Target
from cimc.targets.load import load_target
from cimc.training.trainer import Trainer
from cimc.tuning.bench import Bench, Images, Measured
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Limits
from cimc.tuning.search import Search, Told
from cimc.tuning.trace import TraceFile, Trial, front

Array = NDArray[Any]
#: Batches that statistics are taken anew from; with the usual momentum of 0.9 the last ten or so count.
_STATISTICS_STEPS = 100


@dataclass(frozen=True, repr=False)
class Tuned(Shown):
    """What a search came to.

    Attributes:
        program: The model, compiled as the best trial has it.
        best: That trial.
        report: It, measured on images and dice that the search has not seen.
        before: The defaults, likewise.
        trace: Every trial, in order.
        front: The trials that none beats in accuracy and in every cost.
        met: Whether the report is within the goal and the budget.
        stopped: Why the search ended.
        notes: What the user should know.
    """

    program: Program
    best: Trial
    report: Measured
    before: Measured
    trace: tuple[Trial, ...]
    front: tuple[Trial, ...]
    met: bool
    stopped: str
    notes: tuple[str, ...]

    def _facts(self) -> dict[str, object]:
        return {
            "points lost": self.report.lost_points, "before": self.before.lost_points, "met": self.met, "trials": len(self.trace),
            "best": self.best.what, "stopped": self.stopped,
        }  # fmt: skip

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = [(one.what, one.measured.lost_points, *one.cost.to_dict().values()) for one in self.front]
        return ("front", "points lost", *self.best.cost.to_dict()), rows

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the program."""
        return {
            "best": self.best.to_dict(),
            "report": self.report.to_dict(),
            "before": self.before.to_dict(),
            "trace": [trial.to_dict() for trial in self.trace],
            "front": [trial.to_dict() for trial in self.front],
            "met": self.met,
            "stopped": self.stopped,
            "notes": list(self.notes),
        }


@checked("model", "target")
def tune(
    model: Model,
    target: str | Path | Target = "bulk-rram",
    x: Any = None,
    y: Any = None,
    *,
    goal: float = 0.5,
    budget: Mapping[str, float] | None = None,
    digital_share: float = 0.0,
    test: tuple[Any, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    dice: int = 5,
    images: int = 2000,
    fine_tune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    time_limit_s: float | None = None,
    trace: str | Path | None = None,
    resume: bool = False,
    preprocessing: Preprocessing | None = None,
    told: Told = lambda trial: None,
    step: Callable[[], None] = lambda: None,
) -> Tuned:
    """Find settings with which a classifier loses at most ``goal`` percentage points on a chip, at the least cost.

    First what costs nothing on the chip is tried (scales of least error, outputs fitted on each die), then noise-aware
    training if it is asked for, then repeats of rows, columns and reads, and digital layers, by the closed form of the
    error. Each proposal is simulated. Images and dice of the report are others than those of the search.

    Args:
        model: As `cimc.compile`; it has one input, and its first output a score for each class.
        target: The chip.
        x: Images, along the first axis; some set ranges, some are fitted on, the others are chosen by. Or data with labels, as
            `open_data` takes them: an npz file, a folder of images, the name of a data set; of these the training part, and the
            test part for the report.
        y: Class numbers; None: the data have them.
        goal: Percentage points that may be lost against ONNX Runtime.
        budget: Shares that may be added to the cost of the defaults: ``arrays``, ``latency``, ``energy``. 0.2 is 20 %. What is
            not named is not limited.
        digital_share: Share of the multiply-accumulates that may become digital.
        test: Images and labels of the report; None: the test part of the data, or the last third of ``x``.
        settings: Fields of the target by dotted path.
        dice: Simulated in each trial; the report takes as many others.
        images: To choose by at most, and for the report.
        fine_tune: Epochs of noise-aware training on ``x``; 0: none.
        lr: Learning rate of it.
        seed: Of dice, and of training.
        time_limit_s: After that no trial begins; None: no limit.
        trace: A file that keeps the trials, a JSON object a line.
        resume: Take up the trials that the file holds.
        preprocessing: As `cimc.compile`.
        told: Told each trial.
        step: Told after each simulated die.

    Raises:
        DataError: Images or labels do not suit the model, or there are too few.
        CimcError: An option is out of range; the model or the target is not usable; the trace is of another search.
    """
    within("goal", goal, 0, 100)
    for name, value in (("dice", dice), ("images", images)):
        within(name, value, 1, 1 << 20, whole=True)
    within("fine_tune", fine_tune, 0, 1 << 20, whole=True)
    within("seed", seed, 0, 2**62, whole=True)
    if time_limit_s is not None:
        within("time_limit_s", time_limit_s, 0, inf)
    described, limits = load_target(target, settings), Limits.of(budget, digital_share)
    probe = compile_model(model, "ideal", preprocessing=preprocessing).need_program()
    parts = _Parts.of(probe, x, y, test, images, preprocessing)
    name = needed_inputs(probe.inputs)[0].name
    calibration, fit = ({name: preprocess(images.x, preprocessing)} for images in (parts.calibration, parts.fit))
    bench = Bench(model, described, calibration, fit, {"preprocessing": preprocessing}, step)
    about = {
        "model": probe.provenance.model_sha256, "target": described.model_dump(mode="json"), "data": parts.fingerprint(),
        "dice": dice, "seed": seed, "preprocessing": None if preprocessing is None else preprocessing.model_dump(),
        "fine_tune": fine_tune, "lr": lr,
    }  # fmt: skip
    until = inf if time_limit_s is None else time.monotonic() + time_limit_s
    kept = TraceFile(None if trace is None else Path(trace), about, resume=resume)
    search = Search(bench, parts.choice, range(seed, seed + dice), goal, limits, kept, until, told)

    def train(candidate: Candidate, state: Compilation) -> int:
        trainer = Trainer(Chip(state.need_program(), seed), lr=lr, threshold=0.0, update="threshold", init="weights", seed=seed)
        trainer.fit(parts.train.x, parts.train.y, epochs=fine_tune)
        bench.trained[fine_tune] = settled(trainer.program().to_onnx(), parts.train, preprocessing, seed)
        return fine_tune

    best = search.run(train if fine_tune else None)
    others = range(seed + dice, seed + 2 * dice)
    program = _told(bench.compiled(best.candidate).need_program(), best.candidate)
    report = bench.measured(program, parts.report, others, fitted=best.candidate.fitted)
    start = search.trials[0]
    before = report if start.candidate == best.candidate else bench.measured(
        bench.compiled(start.candidate).need_program(), parts.report, others, fitted=False
    )  # fmt: skip
    met = best.within and report.lost_points <= goal
    return Tuned(
        program, best, report, before, tuple(search.trials), tuple(front(search.trials)), met, search.stopped,
        tuple(_notes(best, report, goal, met, len(parts.report))),
    )  # fmt: skip


def settled(model: onnx.ModelProto, images: Images, preprocessing: Preprocessing | None, seed: int) -> onnx.ModelProto:
    """A model with the statistics of its batch normalisation taken anew, in exact execution; its weights stay.

    Noise-aware training leaves those of noisy values. The outputs of a die are fitted to an exact execution, which would
    normalise by them.

    Args:
        model: After training.
        images: That it was trained on.
        preprocessing: Of them.
        seed: Of their order.
    """
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    chip = Chip(compile_model(model, "ideal", preprocessing=preprocessing).need_program())
    trainer = Trainer(chip, lr=0.0, optimizer="sgd", schedule="constant", init="weights", seed=seed)
    trainer.fit(images.x, images.y, epochs=1, steps_per_epoch=_STATISTICS_STEPS)
    return trainer.program().to_onnx()


def _told(program: Program, candidate: Candidate) -> Program:
    """The program, which says how it was tuned."""
    old = program.provenance
    told = old.model_copy(update={"notes": (*old.notes, f"tuned: {candidate.words()}")})
    return program.model_copy(update={"provenance": told})


def _notes(best: Trial, report: Measured, goal: float, met: bool, images: int) -> list[str]:
    notes = [f"from {images} images the lost points are known to {report.error_points:.2g} points (one standard error)"]
    if best.candidate.fitted:
        notes.append("the accuracy is that of fitted dice: fit each chip (`cimc calibrate`, `chip.fit_outputs`)")
    if not met and best.measured.lost_points <= goal:
        notes.append("the goal was met on the images of the search, not on those of the report: choose a lower goal")
    elif not met:
        notes.append("the goal is not met; `cimc explain` tells which layers and errors cost most")
    return notes


@dataclass(frozen=True)
class _Parts:
    """Images by use. Those of training may be the ones that choose ranges and fits, never the ones that choose or report."""

    calibration: Images
    fit: Images
    choice: Images
    report: Images
    train: Images

    @classmethod
    def of(
        cls, program: Program, x: Any, y: Any, test: tuple[Any, Any] | None, images: int, how: Preprocessing | None
    ) -> _Parts:  # fmt: skip
        """Split the data: of ``x`` an eighth sets ranges (512 at most), an eighth is fitted on (256), then come the others.

        Parts are whole batches where the model fixes their size.

        Raises:
            DataError: They do not suit the model, or are too few.
        """
        spec = one_input(program.inputs, "", "tune a model of one input")
        if is_data(x):
            check_alone(x, y if test is None else test, "tune")
            x, y, test = _held(x, spec)
        given = _images(spec, x, y, "x", how)
        size = fixed_batch({spec.name: given.x}, program.inputs) or 1
        count = len(given)
        if test is None:
            held, report = given.cut(0, count * 2 // 3, size), given.cut(count * 2 // 3, count, size)
        else:
            held, report = given.cut(0, count, size), _images(spec, *test, "test", how)
        total = len(held)
        a, b = min(512, total // 8) // size * size, min(256, total // 8) // size * size
        chosen = min(images, (total - a - b) // 2 or 1) // size * size
        report = report.cut(0, images, size)
        if total < 24 or not (a and b and chosen and len(report)):
            fix = f"give {48 * size} or more" if images >= size else f"images={size} or more"
            raise DataError(f"{count} images are too few to set ranges, fit, choose and report", where="x", fix=fix)
        return cls(
            held.cut(0, a), held.cut(a, a + b), held.cut(total - chosen, total), report, held.cut(0, total - chosen)
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Of all images and labels."""
        return fingerprint(*((part.x, part.y) for part in (self.train, self.choice, self.report)))


def _held(data: Data, spec: ValueSpec) -> tuple[Any, Any, tuple[Any, Any] | None]:
    """Images, labels and those of the report; None: the data have one part alone.

    Raises:
        DataError: An array is missing.
    """
    source = open_data(data)
    parts = ("_train", "_test") if "x_train" in source.names else ("",)
    wanted = [f"{letter}{part}" for part in parts for letter in "xy"]
    arrays = source.read(wanted, spec)
    for name in wanted:
        if name not in arrays:
            fix = "x and y, or x_train, y_train, x_test and y_test, are needed"
            raise DataError(f"holds no array {name}", where=source.where, fix=fix)
    x, y, *test = (arrays[name] for name in wanted)
    return x, y, (test[0], test[1]) if test else None


def _images(spec: ValueSpec, x: Any, y: Any, where: str, how: Preprocessing | None) -> Images:
    if x is None or y is None:
        raise DataError("images or labels are missing", where=where, fix="give x and y")
    return Images(*labelled(x, y, spec, where, how))
