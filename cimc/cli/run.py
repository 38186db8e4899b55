"""`cimc run`: one batch through the simulated chip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cimc.cli.common import (
    BackendName,
    Compiled,
    Json,
    Resize,
    Seed,
    Time,
    announce,
    note,
    note_die,
    opened,
    parse_time,
    print_run,
    tell_data,
)
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins


def run(
    program_file: Compiled,
    inputs_file: Annotated[Path, typer.Option("--input", metavar="X.npz", help="x, or an array for each input by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="Y.npz", help="Where the outputs go, by name.")],
    seed: Seed = 0,
    check: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="Compare with ONNX Runtime on this model.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Segments that depend on the batch split run by image.")
    ] = False,
    time: Time = None,
    resize: Resize = None,
    plugins: Plugins = None,
    backend: BackendName = "cpu",
    json: Json = False,
) -> None:
    """Run a compiled model on a simulated chip."""
    from cimc.data import load_arrays, save_npz
    from cimc.ir.artifact import load
    from cimc.runtime.chip import Chip
    from cimc.runtime.clipping import clipping_notes
    from cimc.runtime.executor import image_count

    guard([output], [program_file, inputs_file, check])
    program = load(program_file)
    note_die(program, seed)
    source = opened(inputs_file, resize)
    inputs = load_arrays(source, program.inputs, "test", program.preprocessing, program.bound_values())
    announce(program, image_count(program.inputs, inputs))
    chip = Chip(program, seed, deterministic=deterministic, backend=backend)
    chip.advance(0.0 if time is None else parse_time(time))
    outputs = chip.run(inputs, 0)
    save_npz(output, outputs)
    about = tell_data(source)
    notes = clipping_notes(chip.stats(), chip.program)
    for text in notes:
        note(f"note: {text}")
    result: dict[str, Any] = {
        "seed": seed,
        "time_s": chip.time_s,
        "stats": chip.stats(),
        "notes": notes,
        "data": about,
    }
    print_run(output, outputs, inputs, result, check, program, json)
