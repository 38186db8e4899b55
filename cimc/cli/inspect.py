"""`cimc inspect`: what is in a compiled model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.cli.common import Compiled, Json, parse_copies, print_json, print_table, training_rows
from cimc.cli.plugins import Plugins
from cimc.errors import CimcError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cimc.ir.forecast import Forecast
    from cimc.ir.program import Program, Repeats


def inspect(
    program_file: Compiled,
    copies: Annotated[list[str] | None, typer.Option(metavar="LAYER=N|auto", help="Copies of slow layers, for the cost.")] = None,
    crossbars: Annotated[int | None, typer.Option(min=1, help="Crossbar budget of --copies auto.")] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Also show where every ONNX node went, and why.")] = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Layers, tiles, utilisation, weight error, digital share and cost of a compiled model; also of its text form."""
    from cimc.ir.artifact import load
    from cimc.ir.kinds import kind_of
    from cimc.ir.parser import load_text

    program = load_text(program_file) if kind_of(program_file) == "text" else load(program_file)
    wanted = _copies(copies or [])
    if crossbars is not None and wanted != "auto":
        raise CimcError("a crossbar budget needs --copies auto", where="--crossbars")
    report = describe(program, wanted, crossbars)
    if json:
        print_json(report)
        return
    cost = report["cost"]
    title = f"{program_file}: {program.provenance.model or 'model'} for {program.target.name}"
    columns = ["layer", "rows", "columns", "crossbars", "ops", "tile ops", "latency ms", "energy mJ"]
    errors = {layer["name"]: layer["weight_error"] for layer in report["layers"]}
    keys = ["name", "rows", "columns", "crossbars", "ops", "tile_ops", "latency_ms", "energy_mj"]
    if cost["latency_ms"]["copies"] is not None or any(row["copies"] > 1 for row in cost["layers"]):
        columns += ["copies", "with copies ms"]
        keys += ["copies", "latency_copies_ms"]
    cells = [[row[key] for key in keys] for row in cost["layers"]]
    repeats = [_repeats(layer.repeats) for layer in program.layers]
    if any(text != "1 x 1" for text in repeats):
        columns.append("repeats")
        cells = [[*row, text] for row, text in zip(cells, repeats, strict=True)]
    print_table(title, (*columns, "weight error"), [(*row, errors[row[0]]) for row in cells])
    if program.expected is not None:
        _print_forecast(program.expected)
    print_table("cost of an image", ("", "value"), _cost_rows(report))
    if nodes:
        print_table("nodes", ("node", "operator", "where", "why"), [tuple(row.values()) for row in report["nodes"]])
    if program.provenance.training:
        print_table("training", ("", "value"), training_rows(program.provenance.training))
    for text in (*_fitted(program), *program.provenance.notes, *cost["notes"]):
        typer.echo(f"note: {text}")


def _fitted(program: Program) -> list[str]:
    """Whether outputs of the chip in the file were fitted, and how."""
    if not program.provenance.fitted or "state/seed" not in program.tensors:
        return []
    return [f"outputs fitted on the die of seed {int(program.tensors['state/seed'][0])}: {program.provenance.fitted}"]


def describe(program: Program, copies: Mapping[str, int] | Literal["auto"] | None, crossbars: int | None) -> dict[str, Any]:
    """All that `inspect` shows, as one JSON object."""
    cost = program.cost(copies, crossbars).to_dict()
    places = [p.where for p in program.placements]
    return {
        "target": program.target.name,
        "schema_version": program.schema_version,
        "provenance": program.provenance.model_dump(mode="json"),
        "inputs": [value.model_dump(mode="json") for value in program.inputs],
        "outputs": [value.model_dump(mode="json") for value in program.outputs],
        "layers": [_layer(program, layer.name) for layer in program.layers],
        "forecast": None if program.expected is None else program.expected.model_dump(mode="json"),
        "utilisation": cost["utilisation"],
        "digital_share": places.count("digital") / len(places) if places else None,
        "nodes": program.placement(),
        "cost": cost,
    }


def _print_forecast(forecast: Forecast) -> None:
    rows = []
    for layer in forecast.layers:
        worst = sorted(layer.causes_db.items(), key=lambda pair: pair[1])[:3]
        rows.append((layer.layer, layer.sqnr_db, ", ".join(f"{cause} {db:.1f}" for cause, db in worst)))
    rows += [(f"output {output.name}", output.sqnr_db, "") for output in forecast.outputs]
    print_table(f"forecast ({forecast.basis})" if forecast.basis else "forecast", ("", "SQNR dB", "largest causes, dB"), rows)
    for effect in forecast.left_out:
        typer.echo(f"note: the forecast leaves out {effect}")


def _repeats(repeats: Repeats) -> str:
    """As ``2 x 1, 4 reads``: rows, columns and reads."""
    reads = f", {repeats.reads} reads" if repeats.reads > 1 else ""
    return f"{repeats.rows} x {repeats.columns}{reads}"


def _layer(program: Program, name: str) -> dict[str, Any]:
    layer = program.layer(name)
    return {
        "name": name,
        "weight": layer.weight.tensor,
        "groups": layer.groups,
        "rows": layer.rows,
        "columns": layer.columns,
        "row_slices": max(0, len(layer.row_cuts) - 1),
        "column_tiles": max(0, len(layer.column_cuts) - 1),
        "crossbars": layer.crossbars,
        "repeats": layer.repeats.model_dump(),
        "weight_error": layer.weight_error,
        "adc_range_ua": layer.adc_range_ua,
        "input": layer.coding.model_dump(mode="json"),
    }


#: In the order of the table; all but the first assume a tile for each crossbar.
_LATENCIES = {
    "placed": "as placed",
    "copies": "idealised, with copies",
    "pipelined": "idealised, pipelined",
    "sequential": "idealised, layer by layer",
}


def _cost_rows(report: dict[str, Any]) -> list[tuple[str, object]]:
    cost = report["cost"]
    rows: list[tuple[str, object]] = [(name, cost[name]) for name in ("crossbars", "crossbars_with_copies")]
    rows += [("crossbars with copies, as published", cost["crossbars_with_copies_published"])]
    rows += [(name, cost[name]) for name in ("tiles", "chips")]
    rows.append(("devices", cost["devices"]))
    rows += [("utilisation of the tiles", report["utilisation"]), ("digital share of the nodes", report["digital_share"])]
    rows += [("flops", cost["flops"]), ("ops", cost["ops"]), ("tile ops", cost["tile_ops"])]
    rows += [(f"latency, {_LATENCIES[name]}, ms", cost["latency_ms"][name]) for name in _LATENCIES]
    return rows + [(f"energy, {name}, mJ", value) for name, value in cost["energy_mj"].items()]


def _copies(values: list[str]) -> dict[str, int] | Literal["auto"] | None:
    if values == ["auto"]:
        return "auto"
    return parse_copies(values) if values else None
