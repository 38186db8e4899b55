"""`cimc explain`: where a chip loses, why, and what would help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cimc.cli.common import (
    Json,
    Resize,
    Seed,
    Time,
    note,
    note_die,
    opened,
    parse_time,
    print_json,
    print_table,
    progress,
    tell_data,
)
from cimc.cli.plugins import Plugins

if TYPE_CHECKING:
    from cimc.budget.result import Budget, Part
    from cimc.ir.program import Program
    from cimc.runtime.chip import Chip

#: Rows of a table at most; the JSON has all.
_ROWS = 20


def explain(
    file: Annotated[Path, typer.Argument(metavar="M.cim|M.cimg", help="A compiled model, or a chip image.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DATA",
            help="An npz with x and y, or x_test and y_test; a folder of images; a data set. Without labels no accuracy.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", help="States the right outputs; default: the graph that M.cim was compiled from."),
    ] = None,
    seed: Seed = 0,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Inputs that are run, spread evenly over the data; default: 256, of large networks down to 64."),
    ] = None,
    time: Time = None,
    class_axis: Annotated[
        int | None, typer.Option(help="Axis of the output along which classes lie; default: the labels' shape decides.")
    ] = None,
    ignore_index: Annotated[int | None, typer.Option(help="Label of places that do not count; default: all count.")] = None,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """What each cause of error costs, by layer, and what would help."""
    from cimc.budget.explain import explain as budget_of
    from cimc.budget.explain import most_runs
    from cimc.ir.classes import Classes

    given, program = _given(file, seed)
    if time is not None:
        given = _aged(given, seed, parse_time(time))
    source = opened(data, resize)
    with progress("executions", most_runs(program), quiet=json) as advance:
        found = budget_of(
            given,
            source,
            model=model,
            seed=seed,
            samples=samples,
            classes=Classes(class_axis, ignore=ignore_index),
            advance=advance,
        )
    about = tell_data(source)
    for text in found.notes:
        note(f"note: {text}")
    if json:
        print_json({**found.to_dict(), "seed": seed, "data": about})
        return
    _show(found, f"{file}, seed {seed}")


def _given(file: Path, seed: int) -> tuple[Program | Chip, Program]:
    """What is explained, and its program: of an image its die."""
    from cimc.ir.artifact import load
    from cimc.ir.kinds import kind_of

    if kind_of(file) == "image":
        from cimc.image.reader import load_image

        die = load_image(file).program(seed)
        return die, die.program
    program = load(file)
    note_die(program, seed)
    return program, program


def _aged(given: Program | Chip, seed: int, seconds: float) -> Chip:
    from cimc.runtime.chip import Chip

    chip = given if isinstance(given, Chip) else Chip(given, seed)
    chip.advance(seconds)
    return chip


def _show(found: Budget, title: str) -> None:
    total = found.total
    rows: list[tuple[str, object]] = [
        ("samples", total.images),
        ("accuracy on the chip", total.accuracy),
        ("accuracy of ONNX Runtime", total.reference_accuracy),
        ("accuracy lost", total.accuracy_lost),
        ("standard error of it", total.standard_error),
        (f"SQNR of {total.output}, dB", total.sqnr_db),
    ]
    print_table(title, ("", "value"), [row for row in rows if row[1] is not None])
    if not found.causes:
        note("the chip makes no error on these samples")
        return
    labelled = total.accuracy is not None
    _parts("by cause, all layers", found.causes, labelled, False)
    print_table(
        "what the parts leave: causes that act together", ("", "error share", "accuracy lost"),
        [("of the causes", found.interaction.error_share, found.interaction.accuracy_lost),
         ("of layers and causes", found.interaction_of_rows.error_share, found.interaction_of_rows.accuracy_lost)],
    )  # fmt: skip
    _parts("by layer and cause", found.rows[:_ROWS], labelled, True)
    if len(found.rows) > _ROWS:
        note(f"{len(found.rows) - _ROWS} smaller rows are left out; --json has them")
    if not found.levers:
        note("nothing that was tried brings anything on these samples")
        return
    brings = [("accuracy", "standard error")] if labelled else []
    columns = ("what would help", *(word for pair in brings for word in pair), "SQNR dB")
    print_table(
        "levers, tried on the same samples", columns,
        [(one.what, *((one.brings, one.standard_error) if labelled else ()), one.gained_db) for one in found.levers[:_ROWS]],
    )  # fmt: skip


def _parts(title: str, parts: list[Part], labelled: bool, layers: bool) -> None:
    columns = [*(["layer"] if layers else []), "cause", "error share", "alone dB", "without it dB"]
    columns += ["accuracy lost", "standard error"] if labelled else []
    rows = []
    for part in parts:
        figures: list[object] = [part.error_share, part.sqnr_db, part.sqnr_db_without]
        figures += [part.accuracy_lost, part.standard_error] if labelled else []
        rows.append([*([part.layer] if layers else []), part.cause, *figures])
    print_table(title, columns, rows)
