"""`cimc run`: one batch through the simulated chip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cimc.cli.common import Compiled, Json, Seed, announce, decibels, print_json, print_table


def run(
    program_file: Compiled,
    inputs_file: Annotated[Path, typer.Option("--input", metavar="X.npz", help="x, or an array for each input by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="Y.npz", help="Where the outputs go, by name.")],
    seed: Seed = 0,
    check: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="Compare with ONNX Runtime on this model.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Segments that depend on the batch split run by image.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a compiled model on a simulated chip."""
    from cimc.data import load_arrays, save_npz
    from cimc.ir.artifact import load
    from cimc.runtime.chip import Chip

    program = load(program_file)
    inputs = load_arrays(inputs_file, program.inputs, "test")
    announce(program, max((len(x) for x in inputs.values() if x.ndim), default=1))
    chip = Chip(program, seed, deterministic=deterministic)
    outputs = chip.run(inputs, 0)
    save_npz(output, outputs)
    result: dict[str, Any] = {
        "output": str(output),
        "seed": seed,
        "outputs": [_described(name, value) for name, value in outputs.items()],
        "stats": chip.stats(),
    }
    if check is not None:
        from cimc.report.compare import compare_outputs, reference_values

        result["check"] = [row.to_dict() for row in compare_outputs(outputs, reference_values(check, inputs))]
    if json:
        print_json(result)
        return
    print_table(str(output), ("output", "dtype", "shape"), [(o["name"], o["dtype"], o["shape"]) for o in result["outputs"]])
    if check is not None:
        rows = [(row["name"], decibels(row["sqnr_db"], row["largest_error"]), row["largest_error"]) for row in result["check"]]
        print_table("against ONNX Runtime", ("output", "SQNR dB", "largest error"), rows)


def _described(name: str, value: Any) -> dict[str, Any]:
    """dtype and shape are null for what is no tensor."""
    tensor = hasattr(value, "dtype")
    return {"name": name, "dtype": value.dtype.name if tensor else None, "shape": list(value.shape) if tensor else None}
