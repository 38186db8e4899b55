"""`cimc evaluate`: accuracy of a classifier on one chip, or on many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cimc.cli.common import (
    BackendName,
    Json,
    Resize,
    Seed,
    announce,
    note,
    note_die,
    opened,
    parse_time,
    print_json,
    print_table,
    progress,
    tell_data,
    told_time,
)
from cimc.cli.metrics import print_classes
from cimc.cli.plugins import Plugins
from cimc.errors import CimcError


def evaluate(
    program_files: Annotated[
        list[Path],
        typer.Argument(metavar="M.cim...", help="A compiled model, or several with --chips or --sweep.", show_default=False),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DATA", help="An npz with x and y, or x_test and y_test; a folder of images; a data set.")
    ],
    seed: Seed = 0,
    resize: Resize = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", help="For ONNX Runtime; default: the graph that M.cim was compiled from."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; the result does not depend on it.")] = 256,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="T[,T...]", help="Let the devices age first: 1s, 20min, 1h, 3d, 1y; a row for each time."),
    ] = None,
    class_axis: Annotated[
        int | None, typer.Option(help="Axis of the output along which classes lie; default: the labels' shape decides.")
    ] = None,
    ignore_index: Annotated[
        int | None, typer.Option(help="Label of places that do not count, such as -100; default: all count.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="accuracy, top5, confusion, per-class; of a regression mse, mae, r2. Several may be given; of many dice one. "
            "Default: accuracy.",
        ),
    ] = None,
    chips: Annotated[int | None, typer.Option(min=1, help="Evaluate so many dice, of seeds from --seed on.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=V,V,...", help="Values of a field of the die; several make a grid of --chips (10) dice each."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N settings spread over ranges instead: --sweep PATH=LOW..HIGH[:log].")
    ] = None,
    placed: Annotated[
        Literal["sobol", "latin"], typer.Option(help="How they are spread: a Sobol sequence, a Latin hypercube.")
    ] = "sobol",
    yield_at: Annotated[
        float | None,
        typer.Option(metavar="A", help="Also the share of dice with at least this accuracy (of mse, mae: at most)."),
    ] = None,
    fit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="First fit the outputs of each die on N images of x_train."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="local:N|tcp://...", help="N processes, or a Dask scheduler; default: this process.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="F.csv", help="A row for each die; .json and .parquet too.")] = None,
    wafer: Annotated[
        Path | None,
        typer.Option(metavar="MAP.csv", help="The dice, a row each: seed, x_mm and y_mm, and fields that a die has for itself."),
    ] = None,
    between_dice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=SIGMA", help="Let a field differ from die to die by so much, in its unit or in % of its value."
        ),
    ] = None,
    journal: Annotated[Path | None, typer.Option(metavar="J.jsonl", help="Keep each die's figures as it ends.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up what the journal holds.")] = False,
    plugins: Plugins = None,
    backend: BackendName = "cpu",
    json: Json = False,
) -> None:
    """Accuracy on the chip, beside ONNX Runtime's on the same images; on many chips with --chips, --sweep or --wafer."""
    if chips is not None or sweep or samples is not None or wafer is not None or between_dice:
        from cimc.cli.population import evaluate_many

        if backend != "cpu":
            raise CimcError("many dice are read by the backend cpu", where="--backend", fix="leave it out")
        evaluate_many(
            program_files, data, chips=chips, sweep=sweep or [], samples=samples, placed=placed, seed=seed, model=model,
            metrics=metric or ["accuracy"], resize=resize, batch=batch, time=time,
            class_axis=class_axis, ignore_index=ignore_index, yield_at=yield_at, fit=fit, scheduler=scheduler, table=csv,
            wafer=wafer, between_dice=between_dice or [], journal=journal, resume=resume, json=json,
        )  # fmt: skip
        return
    program_file, *others = program_files
    if others:
        raise CimcError("several files are for many dice", where=str(others[0]), fix="add --chips N")
    many = {"--yield-at": yield_at, "--fit": fit, "--scheduler": scheduler, "--csv": csv, "--journal": journal}
    for name, value in many.items():
        if value is not None:
            raise CimcError(f"{name} is for many dice", where=name, fix="add --chips N")
    from cimc.data import load_labelled, load_targets, one_input
    from cimc.ir.artifact import load
    from cimc.ir.classes import Classes
    from cimc.report import evaluate as report
    from cimc.report.metrics import SCALARS, Meter

    program = load(program_file)
    note_die(program, seed)
    spec = one_input(program.inputs, str(program_file), "use cimc run")
    source = opened(data, resize)
    names = metric or ["accuracy"]
    of_classes = Meter(names).of_classes
    if of_classes:
        x, y = load_labelled(source, spec, how=program.preprocessing, ignore=ignore_index)
    else:
        x, y = load_targets(source, spec, how=program.preprocessing)
    if spec.shape and isinstance(spec.shape[0], int):
        batch = spec.shape[0]
    times = sorted(parse_time(text) for text in time.split(",")) if time else [0.0]
    announce(program, len(x) * len(times))
    with progress("images", len(x) * len(times), quiet=json) as advance:
        result = report.evaluate(
            program, x, y, seed=seed, batch=batch, reference=model, advance=advance, live=advance.live, time_s=times,
            backend=backend, classes=Classes(class_axis, ignore=ignore_index), metrics=names,
        )  # fmt: skip
    about = tell_data(source)
    for text in result.notes:
        note(f"note: {text}")
    if json:
        print_json({**result.to_dict(), "data": about})
        return
    scalars = [name for name in SCALARS[1:] if name in result.metrics]
    rows: list[tuple[str, object]] = [("images", result.images)]
    rows += [("labels", result.labels)] if result.labels != result.images else []
    if "accuracy" in result.metrics:
        rows += [("accuracy on the chip", result.accuracy), ("accuracy of ONNX Runtime", result.reference_accuracy)]
    for name in scalars:
        found = result.metrics[name]
        rows += [(f"{name} on the chip", found["chip"]), (f"{name} of ONNX Runtime", found["reference"])]
    if of_classes:
        rows.append(("the two agree", result.agreement))
    print_table(f"{program_file}, seed {seed}", ("", "value"), rows)
    print_classes(result.metrics, source.classes)
    if time:
        words = (["accuracy", "agreement"] if of_classes else []) + scalars
        aged = [(told_time(a.time_s), *({**vars(a), **a.metrics}[word] for word in words)) for a in result.times]
        print_table("as the devices age", ("time", *words), aged)
