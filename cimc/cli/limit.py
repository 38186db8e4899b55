"""`cimc yield`: how far a field of the chip may go until too few dice reach an accuracy, or a value of another metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cimc.cli.common import Json, Resize, note, opened, opened_calibration, print_json, print_table, tell_data
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins
from cimc.cli.population import note_chip
from cimc.errors import CimcError

if TYPE_CHECKING:
    from cimc.population.result import Yield


def yield_(
    program_file: Annotated[
        Path,
        typer.Argument(metavar="M.cim|MODEL.onnx", show_default=False, help="A program, or a model to compile for each value."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DATA", help="An npz with x and y, or x_test and y_test; a folder of images; a data set.")
    ],
    accuracy: Annotated[
        float,
        typer.Option(
            "--accuracy", "--yield-at", metavar="A", help="That a die has to reach; a value of --metric (of mse, mae: at most)."
        ),
    ],
    vary: Annotated[str, typer.Option(metavar="PATH", help="The field, such as device.programming.sigma_us.")],
    good: Annotated[
        str, typer.Option(metavar="VALUE", help="Where the search begins; between whole ends it takes whole numbers.")
    ],
    bad: Annotated[str, typer.Option(metavar="VALUE", help="Where it ends.")],
    at_least: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the dice that have to.")] = 0.9,
    chips: Annotated[int, typer.Option(min=1, help="Dice at each value.")] = 50,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="The figure of a die: accuracy, top5; of a regression mse, mae, r2.")
    ] = "accuracy",
    seed: Annotated[int, typer.Option(min=0, help="Of the first die.")] = 0,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Of a model: a chip's name or a YAML file.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Of a model: images that set input scales and ADC ranges; default: x_train of the data."
        ),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="local:N|tcp://...", help="N processes, or a Dask scheduler.")] = None,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """The last value of a field at which enough dice reach an accuracy, or a value of another metric."""
    from cimc.compiler import compile_model
    from cimc.data import load_labelled, load_targets, one_input
    from cimc.ir.artifact import load
    from cimc.ir.kinds import kind_of
    from cimc.population.limit import goal_of, limit_of
    from cimc.report.metrics import OF_CLASSES, check_scalar

    check_scalar(metric)
    guard([], [program_file, data, calibration])
    given = opened(data, resize)
    compiled = kind_of(program_file) == "program"
    options: dict[str, Any] = {}
    if compiled:
        if target is not None or calibration is not None:
            raise CimcError("a target is of a model, but this is a program", where="--target", fix="give the ONNX model")
        program = load(program_file)
        note_chip(program)
    else:
        program = compile_model(program_file, "ideal").need_program()
        beside = opened_calibration(calibration, resize)
        if beside is None and "x_train" in given.names:
            beside = given
        options = {"target": target or "bulk-rram", "calibration": beside}
    spec = one_input(program.inputs, str(program_file), "use cimc run")
    x, y = (load_labelled if metric in OF_CLASSES else load_targets)(given, spec, how=program.preprocessing)

    def told(value: float, found: Yield) -> None:
        note(f"{vary}={value:g}: {100 * found.share:.3g} % of the dice (95 %: {100 * found.low:.3g} to {100 * found.high:.3g})")

    source = program if compiled else program_file
    result = limit_of(
        source, x, y, vary, _number(good, "--good"), _number(bad, "--bad"), accuracy=accuracy, at_least=at_least, chips=chips,
        metric=metric, seed=seed, scheduler=scheduler, told=told, **options,
    )  # fmt: skip
    about = tell_data(given)
    if calibration is not None and options:
        tell_data(options["calibration"])
    if json:
        print_json({**result.to_dict(), "metric": metric, "data": about})
        return
    rows = [(value, found.share, found.low, found.high) for value, found in result.tried]
    title = f"dice with {goal_of(metric, accuracy)}, {chips} at each value"
    print_table(title, (vary, "yield", "95 % from", "to"), rows)
    end = "every value that was tried" if result.bad is None else f"not {result.bad:g}"
    note(f"{100 * at_least:g} % of the dice: up to {vary}={result.good:g}, {end}")
    note(f"with 97.5 % confidence up to {result.sure:g}" if result.sure is not None else "more --chips would make it sure")


def _number(text: str, option: str) -> float:
    """A whole number as such.

    Raises:
        CimcError: It is no number.
    """
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise CimcError(f"{text} is no number", where=option) from error
