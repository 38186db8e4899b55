"""`cimc.evaluate` and `cimc.sweep`: accuracy over many dice, at settings and at times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import from_proto

from cimc.arguments import checked, within
from cimc.compiler import Model, compile_model
from cimc.data import as_input, labelled, needed_inputs, one_input, preprocess, targeted
from cimc.errors import CimcError, DataError
from cimc.fingerprint import fingerprint
from cimc.frontend.load import load as load_model
from cimc.image.image import Image
from cimc.ir.classes import Classes
from cimc.ir.program import Program
from cimc.journal import Journal
from cimc.population.between import spread_between
from cimc.population.opening import Source, are_several, is_compiled, opened_file, opened_files, program_of
from cimc.population.result import Population
from cimc.population.samples import Placing, Span, spread
from cimc.population.settings import is_free, with_settings
from cimc.population.wafer import Wafer, read_wafer
from cimc.population.work import Found, Work, pieces_of
from cimc.population.workers import results
from cimc.report.calibrate import batches, fixed_batch, split
from cimc.report.evaluate import measure
from cimc.report.metrics import OF_CLASSES, Meter, check_scalar, number_of
from cimc.report.reference import Reference, named

Array = NDArray[Any]
Point = tuple[int, Mapping[str, Any]]

#: Dice of one study, and settings of a grid.
_MOST = 1 << 20


@checked("source", "model", "scheduler")
def evaluate(
    source: Source | Sequence[Source],
    x: Any,
    y: Any = None,
    *,
    chips: int = 100,
    seed: int = 0,
    time_s: float | Sequence[float] = 0.0,
    settings: Mapping[str, Any] | None = None,
    model: Model | None = None,
    classes: Classes | None = None,
    metric: str = "accuracy",
    fit: Any = None,
    scheduler: Any = None,
    journal: str | Path | None = None,
    resume: bool = False,
    wafer: Wafer | str | Path | None = None,
    between_dice: Mapping[str, float | str] | None = None,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    live: Callable[[str], None] | None = None,
) -> Population:
    """Accuracy over many dice of a program or an image, or of each of several.

    Args:
        source: A compiled program, an image, or the file of one. The weights of a trained program are written into each die; the
            chip that was trained is not among them. Of a list, each is evaluated on dice of the same seeds; the programs
            have the same inputs, preprocessing and shape of the output.
        x: Images, along the first axis, as the model wants them but for the program's preprocessing; or data with labels, as
            `open_data` takes them: an npz file, a folder of images, the name of a data set. Of these, the test part.
        y: Class numbers; None: the data have them.
        chips: Dice, of seeds ``seed``, ``seed + 1``, …
        seed: Of the first die.
        time_s: Times (s) after programming at which each die is evaluated, not falling.
        settings: Fields of the target that change for the dice alone: those of `cimc.population.settings.FREE`. The program
            stays as it was compiled.
        model: Run by ONNX Runtime on the same images; None: the program's own graph.
        classes: Axis of the classes, and the class number of places that do not count.
        metric: The figure of a die: ``accuracy``, ``top5``; of a regression ``mse``, ``mae``, ``r2``, where ``y`` are targets.
        fit: Images, as ``x``, that the outputs of each die are fitted on first (`Chip.fit_outputs`); None: they are not.
        scheduler: None: this process; ``local:N``: N processes; ``tcp://HOST:PORT`` or a Dask client. The figures are the same.
        journal: A file that keeps each die's figures as it ends.
        resume: Take up what the journal holds.
        wafer: The dice instead of ``chips`` and ``seed``, with their places, and with fields of the target that each has for
            itself, of the same ones as ``settings``; or the CSV file of such a map (`cimc.population.wafer.read_wafer`).
        between_dice: Fields that differ from die to die, with their standard deviation: in the unit of the field, or in parts of
            its value, ``"10%"`` (`cimc.population.between.spread_between`).
        batch: Images a run; the figures do not depend on it.
        advance: Told 1 after each die.
        live: Told of the dice so far after each die, in words.

    Raises:
        DataError: Images or labels do not suit the model.
        CimcError: An option is out of range, or a setting changes the program.
    """
    names, programs = _opened(source)
    fields = dict(settings or {})
    for opened in programs:
        if isinstance(opened, Program):
            with_settings(opened, fields)
    how, told = classes or Classes(), (advance, live)
    run = _Run(
        chips, seed, _times(time_s), how, metric, fit, scheduler, journal, resume, batch, *told, _map(wafer), between_dice or {}
    )
    points = [(number, fields) for number in range(len(programs))]
    return run.population(programs, points, [fields] * len(points), x, y, model, names)


@checked("model_or_program", "scheduler", "options")
def sweep(
    model_or_program: Model | Program | Sequence[Program | str | Path],
    x: Any,
    y: Any,
    grid: Mapping[str, Sequence[Any] | Span],
    *,
    samples: int | None = None,
    placed: Placing = "sobol",
    chips: int = 10,
    seed: int = 0,
    time_s: float | Sequence[float] = 0.0,
    classes: Classes | None = None,
    metric: str = "accuracy",
    fit: Any = None,
    scheduler: Any = None,
    journal: str | Path | None = None,
    resume: bool = False,
    wafer: Wafer | str | Path | None = None,
    between_dice: Mapping[str, float | str] | None = None,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    live: Callable[[str], None] | None = None,
    **options: Any,
) -> Population:
    """Accuracy over many dice at each setting of a grid, or at samples of ranges.

    Args:
        model_or_program: A compiled program, whose die and reads may vary; or an ONNX model, which is compiled for each value
            of a field that changes the program. Of a list of compiled programs, each is evaluated at each setting, as by
            `evaluate`.
        x: As `evaluate`, and so are ``y``, ``chips`` and all that follows.
        y: Class numbers; None: the data have them.
        grid: Values by dotted path of a target's field; several paths make a grid. With ``samples``, ranges (`Span`).
        samples: Settings that fill the ranges evenly; None: there are none, the grid has values.
        placed: How: a ``sobol`` sequence, or a ``latin`` hypercube.
        chips: Dice at each setting.
        seed: Of the first die.
        time_s: Times (s).
        classes: Axis of the classes.
        metric: The figure of a die.
        fit: Images that outputs are fitted on.
        scheduler: Where the dice are evaluated.
        journal: Keeps each die's figures.
        resume: Take up what the journal holds.
        wafer: The dice, their places and own fields.
        between_dice: Fields that differ from die to die.
        batch: Images a run.
        advance: Told 1 after each die.
        live: Told of the dice so far after each die, in words.
        options: Of the compilation of a model: ``target``, ``calibration``, ``settings``, …

    Raises:
        DataError: Images or labels do not suit the model.
        CimcError: An option is out of range; the model is not usable; a field changes the program, and there is only a program.
    """
    settings = _grid(grid) if samples is None else spread(grid, samples, placed, seed)
    names: tuple[str, ...] = ()
    programs: tuple[Program | Image, ...]
    points: list[Point]
    if not are_several(model_or_program) and not is_compiled(model_or_program):
        model: Any = model_or_program
        programs, points = _compiled(model_or_program, settings, options)
    else:
        if options:
            what = f"{next(iter(options))} is of a compilation, but this is a program"
            raise CimcError(what, where="sweep", fix="give the model")
        model = None
        names, programs = _opened(model_or_program)
        for name, opened in zip(names or ("sweep",), programs, strict=True):
            if isinstance(opened, Image):
                raise CimcError("an image is for the chip that it was made for", where=name, fix="sweep the program instead")
            for fields in settings:
                with_settings(opened, fields)
        points = [(number, fields) for number in range(len(programs)) for fields in settings]
        settings = settings * len(programs)
    how, told = classes or Classes(), (advance, live)
    run = _Run(
        chips, seed, _times(time_s), how, metric, fit, scheduler, journal, resume, batch, *told, _map(wafer), between_dice or {}
    )
    return run.population(programs, points, settings, x, y, model, names)


def _opened(source: Any) -> tuple[tuple[str, ...], tuple[Program | Image, ...]]:
    """Names and programs of a list; a single program has no name."""
    if not are_several(source):
        return (), (opened_file(source),)
    files = opened_files(source)
    return tuple(files), tuple(files.values())


def _compiled(
    model: Any, settings: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> tuple[tuple[Program, ...], list[Point]]:  # fmt: skip
    """A program for each set of fields that change it; and for each setting its program and what is left for the die."""
    made: dict[str, int] = {}
    programs: list[Program] = []
    points: list[Point] = []
    base = options.get("settings") or {}
    if not isinstance(base, Mapping):
        raise CimcError("settings are no dict here", where="sweep", fix='give {"device.levels": 4}')
    rest = {name: value for name, value in options.items() if name != "settings"}
    for fields in settings:
        bound = {path: value for path, value in fields.items() if not is_free(path)}
        key = repr(sorted(bound.items()))
        if key not in made:
            made[key] = len(programs)
            programs.append(compile_model(model, settings={**base, **bound}, **rest).need_program())
        points.append((made[key], {path: value for path, value in fields.items() if is_free(path)}))
    return tuple(programs), points


@dataclass(frozen=True)
class _Run:
    """Options of a study, as `evaluate` tells them."""

    chips: int
    seed: int
    times: tuple[float, ...]
    classes: Classes
    metric: str
    fit: Any
    scheduler: Any
    journal: str | Path | None
    resume: bool
    batch: int
    advance: Callable[[int], None] | None
    live: Callable[[str], None] | None
    wafer: Wafer | None = None
    between_dice: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        within("chips", self.chips, 1, _MOST, whole=True)
        within("seed", self.seed, 0, 2**62, whole=True)
        within("batch", self.batch, 1, 2**31, whole=True)
        check_scalar(self.metric)

    def population(
        self, programs: tuple[Program | Image, ...], points: Sequence[Point], settings: Sequence[Mapping[str, Any]], x: Any,
        y: Any, model: Model | None, names: Sequence[str] = (),
    ) -> Population:  # fmt: skip
        """Evaluate every die at every setting, those of the journal left out; ``names`` are those of several programs."""
        programs = tuple(source if isinstance(source, Image) else without_chip(source) for source in programs)
        compiled = [program_of(source) for source in programs]
        if self.between_dice:
            if any(program.target != compiled[0].target for program in compiled) and names:
                raise CimcError("the files have different targets", where="between_dice", fix="evaluate each file alone")
            dice = self.wafer or Wafer(tuple(range(self.seed, self.seed + self.chips)))
            own_values = spread_between(dice, self.between_dice, compiled[0].target)
            return replace(self, wafer=own_values, between_dice={}).population(programs, points, settings, x, y, model, names)
        images, labels, fixed = _images(compiled[0], x, y, self.classes.ignore, self.metric)
        size = fixed or self.batch
        meters = [Meter([self.metric]) for _ in compiled]
        pairs = zip(compiled, meters, strict=True)
        expected = tuple(_expected(program, model, images, labels, self.classes, size, meter) for program, meter in pairs)
        fitted = self._fitted(compiled[0])
        work = Work(programs, images, labels, expected, self.classes, self.times, size, fitted, self.metric)
        seeds: Sequence[int] = range(self.seed, self.seed + self.chips) if self.wafer is None else self.wafer.seeds
        own = self._own(programs, points)
        about = {
            "models": [program.provenance.model_sha256 for program in compiled],
            "targets": [program.target.model_dump(mode="json") for program in compiled],
            "settings": [dict(fields) for fields in settings], "data": fingerprint(images, labels), "times": list(self.times),
            "seed": self.seed, "chips": len(seeds), "fit": fingerprint(work.fitted),
            **({} if self.metric == "accuracy" else {"metric": self.metric}),
            **({} if self.wafer is None else {"wafer": self.wafer.to_dict()}),
            "programs": [_print_of(one) for one in compiled], **({"files": list(names)} if names else {}),
        }  # fmt: skip
        kept = Journal(None if self.journal is None else Path(self.journal), about, "--journal", resume=self.resume)
        known = {(found.point, found.seed): found for found in map(_found, kept.records)}
        left = [piece for piece in pieces_of(points, seeds, own) if piece.key not in known]
        for found in results(work, left, self.scheduler):
            known[found.point, found.seed] = found
            kept.add(found.to_dict())
            if self.advance is not None:
                self.advance(1)
            if self.live is not None:
                values = [one.accuracies[0] for one in known.values()]
                self.live(f"{self.metric}: median {np.median(values):.4g}, {min(values):.4g} to {max(values):.4g}")
        figures = [
            np.array([[getattr(known[p, seed], word) for seed in seeds] for p in range(len(settings))]).transpose(0, 2, 1)
            for word in ("accuracies", "agreements")
        ]
        references = [number_of(meter) for meter in meters]
        files = dict(zip(names, references, strict=True)) if names else {}
        reference = float(np.median(references)) if names else references[0]
        accuracy, agreement = figures
        rest = accuracy, agreement, reference, len(images), self.metric, self.wafer, files
        return Population(tuple(settings), self.times, tuple(seeds), *rest)

    def _own(self, programs: Sequence[Program | Image], points: Sequence[Point]) -> dict[int, Mapping[str, Any]]:
        """Fields that single dice have for themselves, by seed.

        Raises:
            CimcError: Such a field changes the program, or the settings vary it too.
        """
        if self.wafer is None:
            return {}
        own = {seed: self.wafer.of(number) for number, seed in enumerate(self.wafer.seeds) if self.wafer.of(number)}
        both = sorted({path for fields in own.values() for path in fields} & {path for _, fields in points for path in fields})
        if both:
            raise CimcError(
                f"{both[0]} is in the settings, and each die has its own", where="settings", fix="vary it in one of them"
            )
        if own and any(isinstance(source, Image) for source in programs):
            raise CimcError("an image is for the chip that it was made for", where="wafer", fix="a map of the program M.cim")
        for source, fields in product(programs, own.values()):
            with_settings(program_of(source), fields)
        return own

    def _fitted(self, program: Program) -> tuple[dict[str, Array], ...]:
        """Inputs that outputs are fitted on, as the model takes them, in batches."""
        if self.fit is None:
            return ()
        (spec,) = needed_inputs(program.inputs)
        how = program.preprocessing
        inputs = {spec.name: preprocess(as_input(np.asarray(self.fit), spec, "fit", how), how)}
        count = len(inputs[spec.name])
        return tuple(batches(inputs, program.inputs, split(count, count, fixed_batch(inputs, program.inputs))[0]))


def _map(wafer: Wafer | str | Path | None) -> Wafer | None:
    return read_wafer(wafer) if isinstance(wafer, str | Path) else wafer


def _print_of(program: Program) -> str:
    """Two programs of one model and target may have other weights, places or scales."""
    return fingerprint(program.tensors, *(part.model_dump(mode="json") for part in (*program.layers, *program.steps)))


def without_chip(program: Program) -> Program:
    """The program without the chip that it may hold: its weights are then written into any die."""
    tensors = {name: tensor for name, tensor in program.tensors.items() if not name.startswith("state/")}
    if len(tensors) == len(program.tensors):
        return program
    provenance = program.provenance.model_copy(update={"fitted": ""})
    return program.model_copy(update={"tensors": tensors, "provenance": provenance})


def _found(record: Mapping[str, Any]) -> Found:
    try:
        shares = (tuple(map(float, record[word])) for word in ("accuracies", "agreements"))
        return Found(int(record["point"]), int(record["seed"]), *shares)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("a record of the journal is no die", where="journal", fix="leave --resume out") from error


def _grid(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values."""
    if not isinstance(grid, Mapping) or not grid:
        raise CimcError("there is nothing to sweep", where="grid", fix='give {"device.programming.sigma_us": [1, 2, 4]}')
    found: dict[str, list[Any]] = {}
    for path, values in grid.items():
        if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray) or not len(values):
            fix = "add samples=64, to spread settings over ranges" if isinstance(values, Span) else "give a list of values"
            raise CimcError(f"{values!r} are no values", where=f"grid, {path}", fix=fix)
        found[path] = [value.item() if isinstance(value, np.generic) else value for value in values]
    total = int(np.prod([len(values) for values in found.values()], dtype=np.float64))
    if total > _MOST:
        raise CimcError(f"the grid has {total} settings", where="grid", fix="fewer values, or samples of ranges")
    return [dict(zip(found, chosen, strict=True)) for chosen in product(*found.values())]


def _times(time_s: float | Sequence[float]) -> tuple[float, ...]:
    times = tuple(float(t) for t in (time_s if isinstance(time_s, Sequence | np.ndarray) else (time_s,)))
    for time in times:
        within("time_s", time, 0, 1e12)
    if not times or list(times) != sorted(times):
        raise CimcError(f"times {list(times)} fall", where="time_s", fix="give them in order")
    return times


def _images(program: Program, x: Any, y: Any, ignore: int | None, metric: str) -> tuple[Array, Array, int | None]:
    """Images and labels, and the images of a run where the model fixes them."""
    spec = one_input(program.inputs, "", "use `chip.run`")
    if metric in OF_CLASSES:
        images, labels = labelled(x, y, spec, "x", program.preprocessing, ignore)
    else:
        images, labels = targeted(x, y, spec, "x", program.preprocessing)
    size = fixed_batch({spec.name: images}, program.inputs)
    if size is not None and len(images) % size:
        raise DataError(f"{len(images)} images are no whole number of batches of {size}", where="x", fix="leave some out")
    return images, labels, size


def _expected(program: Program, model: Model | None, x: Array, y: Array, how: Classes, batch: int, meter: Meter) -> Array:
    """What ONNX Runtime says of the images; it is measured."""
    name, output = needed_inputs(program.inputs)[0].name, program.outputs[0].name
    loaded = from_proto(program.to_onnx()) if model is None else load_model(model).model
    runner = Reference(loaded, named(model), [name], [output], bound=program.bound_values())
    found = np.zeros(y.shape, np.int64)
    for first in range(0, len(x), batch):
        here = slice(first, first + batch)
        scores = runner.run({name: preprocess(x[here], program.preprocessing)})[output]
        found[here] = measure(meter, scores, y[here], how)
    return found
