"""Many dice on the command line: `cimc evaluate --chips`, `--sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.cli.common import note, opened, parse_time, print_json, print_table, progress, tell_data, told_time
from cimc.cli.outputs import guard
from cimc.errors import CimcError, DataError

if TYPE_CHECKING:
    from cimc.ir.program import Program, ValueSpec
    from cimc.population.result import Population
    from cimc.population.samples import Placing, Span
    from cimc.sources import Source


def evaluate_many(
    files: Sequence[Path], data: Path, *, chips: int | None, sweep: Sequence[str], seed: int, model: Path | None, batch: int,
    samples: int | None, placed: Placing, resize: str | None, metrics: Sequence[str],
    time: str | None, class_axis: int | None, ignore_index: int | None, yield_at: float | None, fit: int | None,
    scheduler: str | None, table: Path | None, wafer: Path | None,
    between_dice: Sequence[str], journal: Path | None, resume: bool, json: bool,
) -> None:  # fmt: skip
    """Evaluate programs or images on many dice, and print the table."""
    from cimc.data import load_labelled, load_targets, one_input
    from cimc.image.image import Image
    from cimc.ir.classes import Classes
    from cimc.population import study
    from cimc.population.between import parse_spreads
    from cimc.population.opening import opened_files, program_of
    from cimc.population.result import table_kind
    from cimc.population.wafer import read_wafer
    from cimc.report.metrics import OF_CLASSES, check_scalar

    guard([table, journal], [*files, data, model, wafer])
    if resume and journal is None:
        raise CimcError("there is no journal to resume from", where="--resume", fix="add --journal J.jsonl")
    if table is not None:
        table_kind(table)  # before the work
    dice = None if wafer is None else read_wafer(wafer)
    if dice is not None and (chips is not None or seed):
        raise CimcError("the map says which dice there are", where="--wafer", fix="leave --chips and --seed out")
    grid: Any = parse_sweep(sweep) if samples is None else parse_spans(sweep)
    subjects = opened_files(files)
    image = any(isinstance(one, Image) for one in subjects.values())
    programs = [program_of(one) for one in subjects.values()]
    program = programs[0]
    spec = one_input(program.inputs, str(files[0]), "use cimc run")
    given = opened(data, resize)
    if len(metrics) != 1:
        raise CimcError("dice have one metric", where="--metric", fix="give one")
    (metric,) = metrics
    check_scalar(metric)
    of_classes = metric in OF_CLASSES
    how = program.preprocessing
    x, y = load_labelled(given, spec, how=how, ignore=ignore_index) if of_classes else load_targets(given, spec, how=how)
    times = sorted(parse_time(text) for text in time.split(",")) if time else [0.0]
    count = (10 if chips is None else chips) if dice is None else len(dice.seeds)
    points = prod(len(values) for values in grid.values()) if samples is None else samples
    classes = Classes(class_axis, ignore=ignore_index)
    options: dict[str, Any] = {"chips": count, "seed": seed, "time_s": times, "classes": classes, "batch": batch}
    options |= {"metric": metric, "wafer": dice, "between_dice": parse_spreads(between_dice)}
    options |= {"scheduler": scheduler, "journal": journal, "resume": resume}
    if fit is not None:
        options["fit"] = _images(given, spec, fit)
    if not image:
        note_chip(next((one for one in programs if "state/seed" in one.tensors), program))
    study_of: Any = list(files) if len(files) > 1 else next(iter(subjects.values()))
    with progress("dice", count * points * len(files), quiet=json) as advance:
        options |= {"advance": advance, "live": advance.live}
        if grid:
            if image:
                raise CimcError("an image is for the chip that it was made for", where="--sweep", fix="sweep the program M.cim")
            found = study.sweep(study_of, x, y, grid, samples=samples, placed=placed, **options)
        else:
            found = study.evaluate(study_of, x, y, model=model, **options)
    if table is not None:
        found.save(table)
    about = tell_data(given)
    if json:
        print_json({**found.to_dict(yield_at), "data": about})
        return
    about_dice = f"{count} dice, {found.images} images" + ("" if metric == "accuracy" else f", {metric}")
    if found.files:
        _print(found.pooled(), yield_at, f"all {len(files)} files: each {about_dice}")
    _print(found, yield_at, f"by file: {about_dice}" if found.files else f"{files[0]}: {about_dice}")
    if samples is not None:
        rows = [(path, "none" if value is None else f"{value:+.2f}") for path, value in found.sensitivity().items()]
        print_table(f"rank correlation of the median {metric} with", ("field", "Spearman"), rows)
    if found.wafer is not None:
        rows = [(name, "none" if value is None else f"{value:+.2f}") for name, value in found.over_wafer().items()]
        where = "" if found.accuracy.shape[:2] == (1, 1) else ", first {'file, ' if found.files else ''}setting and time"
        print_table(f"rank correlation of a die's {metric} with{where}", ("", "Spearman"), rows)
    note(f"{metric} of ONNX Runtime{', median of the files' if found.files else ''}: {found.reference:.4f}")


def _images(data: Source, spec: ValueSpec, count: int) -> Any:
    """Images to fit on, spread evenly over ``x_train``.

    Raises:
        DataError: There are none.
    """
    from cimc.report.calibrate import split

    held = data.read(["x_train"], spec).get("x_train")
    if held is None:
        raise DataError("holds no array x_train to fit on", where=data.where, fix="give data with x_train, or leave --fit out")
    return held[split(len(held), count)[0]]


def note_chip(program: Program) -> None:
    """Say that a chip in the file is none of the dice."""
    if "state/seed" in program.tensors:
        note("note: the file holds a chip; its weights are written into each die (cimc evaluate alone: that chip)")


def parse_sweep(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``["device.read_sigma_us=0,1,2"]`` as values by path; values as YAML has them.

    Raises:
        CimcError: Not of that form, or a path twice.
    """
    import yaml

    grid: dict[str, list[Any]] = {}
    for text in texts:
        path, equals, values = text.partition("=")
        fix = "for example device.programming.sigma_us=1,2,4"
        if not equals or not path or not values or path in grid:
            raise CimcError(f"--sweep {text} is not PATH=VALUE,VALUE,...", fix=fix)
        try:
            grid[path] = [yaml.safe_load(value) for value in values.split(",")]
        except yaml.YAMLError as error:
            raise CimcError(f"--sweep {text} holds no values", fix=fix) from error
    return grid


def parse_spans(texts: Sequence[str]) -> dict[str, Span]:
    """``["device.read_sigma_us=0.1..4:log"]`` as ranges by path.

    Raises:
        CimcError: Not of that form, or a path twice.
    """
    import yaml

    from cimc.population.samples import Span

    spans: dict[str, Span] = {}
    for text in texts:
        path, equals, ends = text.partition("=")
        ends, _, scale = ends.partition(":")
        low, dots, high = ends.partition("..")
        fix = "with --samples a range: device.programming.sigma_us=1..4, or =0.01..1:log"
        try:
            numbers = [yaml.safe_load(end) for end in (low, high)]
        except yaml.YAMLError:
            numbers = []
        known = equals and path and dots and path not in spans and scale in ("", "log")
        if not known or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) or not numbers:
            raise CimcError(f"--sweep {text} is not PATH=LOW..HIGH", fix=fix)
        spans[path] = Span(numbers[0], numbers[1], scale == "log")
    if not spans:
        raise CimcError("--samples needs a range", fix="add --sweep device.programming.sigma_us=1..4")
    return spans


def _print(found: Population, yield_at: float | None, title: str) -> None:
    paths = list(found.settings[0])
    timed = len(found.times) > 1 or found.times[0] > 0
    columns = [
        *(["file"] if found.files else []),
        *paths,
        *(["time"] if timed else []),
        "median",
        "lower quartile",
        "upper quartile",
        "lowest",
        "highest",
    ]
    columns += [f"yield at {yield_at:g}", "95 % from", "to"] if yield_at is not None else []
    columns += ["ONNX Runtime"] if found.files else []
    rows = []
    for number, row in enumerate(found.quantiles()):
        file = [row["file"]] if found.files else []
        cells = file + [row[path] for path in paths] + ([told_time(row["time_s"])] if timed else [])
        cells += [row[word] for word in ("median", "q25", "q75", "min", "max")]
        if yield_at is not None:
            point, time = divmod(number, len(found.times))
            share = found.yield_at(yield_at, point, time)
            cells += [share.share, share.low, share.high]
        cells += [found.files[name] for name in file]
        rows.append(tuple(cells))
    print_table(title, tuple(columns), rows)
