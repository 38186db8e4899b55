"""`cimc calibrate`: fit the outputs of one chip on calibration images, without a write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.cli.common import (
    BackendName,
    Compiled,
    Json,
    Resize,
    Seed,
    announce,
    note,
    note_die,
    opened,
    print_json,
    print_table,
    tell_data,
)
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cimc.ir.program import Program
    from cimc.report.evaluate import Evaluation
    from cimc.sources import Source


def calibrate(
    program_file: Compiled,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DATA",
            help="An npz, a folder of images or a data set: fits on x_train, or on x; the others show what it brought.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.cim", help="The chip with its fitted outputs.")],
    images: Annotated[int, typer.Option(min=1, help="Images to fit on, spread evenly over the data.")] = 256,
    seed: Seed = 0,
    method: Annotated[
        Literal["moments", "least-squares", "offset"],
        typer.Option(help="Scale and offset by mean and variance, or by least squares; or the offset alone."),
    ] = "moments",
    ranges: Annotated[bool, typer.Option("--ranges", help="First choose input gains and ADC ranges on the chip.")] = False,
    resize: Resize = None,
    plugins: Plugins = None,
    backend: BackendName = "cpu",
    json: Json = False,
) -> None:
    """Fit a digital scale and offset for each output channel of a chip. No device is written."""
    from cimc.data import load_arrays
    from cimc.ir.artifact import load
    from cimc.report.calibrate import batches, fixed_batch, split
    from cimc.report.calibrate import calibrate as fit
    from cimc.runtime.chip import Chip
    from cimc.runtime.executor import image_count

    guard([output], [program_file, data])
    program = load(program_file)
    specs, source = program.inputs, opened(data, resize)
    inputs = load_arrays(source, specs, "train", program.preprocessing, program.bound_values())
    batch = fixed_batch(inputs, specs)
    chosen, others = split(image_count(specs, inputs), images, batch)
    apart = "x" not in source.names and "x_test" in source.names
    tests = load_arrays(source, specs, "test", program.preprocessing, program.bound_values()) if apart else inputs
    checked = split(image_count(specs, tests), images, batch)[0] if apart else others[split(len(others), images, batch)[0]]
    announce(program, 4 * len(chosen))
    chip = Chip(program, seed, backend=backend)
    note_die(program, seed)
    before, why = _accuracy(chip.trained_program(), source, seed, None if apart else others, backend)
    found = fit(chip, batches(inputs, specs, chosen), batches(tests, specs, checked), method.replace("-", "_"), ranges)  # type: ignore[arg-type]
    fitted = chip.trained_program()
    after, _ = (None, "") if before is None else _accuracy(fitted, source, seed, None if apart else others, backend)
    fitted.save(output)
    notes = [*found.notes, *([why] if why else [])]
    about = tell_data(source)
    for text in notes:
        note(f"note: {text}")
    told = None
    if before is not None and after is not None:
        told = {
            "before": before.accuracy,
            "after": after.accuracy,
            "reference": before.reference_accuracy,
            "images": after.images,
        }
    if json:
        more: dict[str, Any] = {"output": str(output), "seed": chip.seed, "method": method, "ranges": ranges}
        print_json({**more, **found.to_dict(), "accuracy": told, "notes": notes, "data": about})
        return
    columns = ("step", "channels", "scale and offset", "offset alone", "neither", "SQNR dB before", "after")
    rows = [
        (s.fit.name, s.fit.channels, s.fit.scaled, s.fit.shifted, s.fit.unchanged, s.sqnr_db_before, s.sqnr_db_after)
        for s in found.steps
    ]
    print_table(f"{output}: the die of seed {chip.seed}, fitted on {found.images} images", columns, rows)
    if told is not None:
        names = {"images": "images, none fitted on", "before": "accuracy before", "after": "after", "reference": "ONNX Runtime"}
        print_table("accuracy", ("", "value"), [(text, told[key]) for key, text in names.items()])


def _accuracy(
    program: Program, data: Source, seed: int, chosen: NDArray[Any] | None, backend: str
) -> tuple[Evaluation | None, str]:
    """Accuracy on images that are not fitted on, where the data have labels for it; else why there is none."""
    from cimc.data import load_labelled, needed_inputs
    from cimc.errors import DataError
    from cimc.report.calibrate import fixed_batch
    from cimc.report.evaluate import evaluate

    needed = needed_inputs(program.inputs)
    if len(needed) != 1 or not {"y", "y_test"} & data.names or (chosen is not None and not len(chosen)):
        return None, ""
    try:
        x, y = load_labelled(data, needed[0], how=program.preprocessing)
        if chosen is not None:
            x, y = x[chosen], y[chosen]
        size = fixed_batch({needed[0].name: x}, program.inputs) or 1
        whole = len(x) // size * size
        return evaluate(program, x[:whole], y[:whole], seed=seed, batch=256 if size == 1 else size, backend=backend), ""
    except DataError as error:
        return None, f"no accuracy: {error.what}"
