"""`cimc compare`: where a chip's error comes from, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cimc.cli.common import (
    BackendName,
    Compiled,
    Json,
    Resize,
    Seed,
    announce,
    decibels,
    note_die,
    opened,
    print_json,
    print_table,
    tell_data,
)
from cimc.cli.plugins import Plugins


def compare(
    program_file: Compiled,
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False, help="The model it was compiled from.")],
    inputs_file: Annotated[Path, typer.Option("--input", metavar="X.npz", help="x, or an array for each input by name.")],
    seed: Seed = 0,
    resize: Resize = None,
    plugins: Plugins = None,
    backend: BackendName = "cpu",
    json: Json = False,
) -> None:
    """Compare a chip with ONNX Runtime layer by layer, worst first."""
    from cimc.data import load_arrays
    from cimc.ir.artifact import load
    from cimc.report.compare import compare_layers
    from cimc.runtime.chip import Chip
    from cimc.runtime.executor import image_count

    program = load(program_file)
    note_die(program, seed)
    source = opened(inputs_file, resize)
    inputs = load_arrays(source, program.inputs, "test", program.preprocessing, program.bound_values())
    announce(program, image_count(program.inputs, inputs))
    rows = [row.to_dict() for row in compare_layers(Chip(program, seed, backend=backend), model, inputs)]
    about = tell_data(source)
    if json:
        print_json({"seed": seed, "layers": rows, "data": about})
        return
    columns = ("layer", "SQNR dB", "its own, dB", "largest error")
    cells = [(r["name"], decibels(r["sqnr_db"], r["largest_error"]), r["own_sqnr_db"], r["largest_error"]) for r in rows]
    print_table(f"{program_file} against {model}, worst first", columns, cells)
