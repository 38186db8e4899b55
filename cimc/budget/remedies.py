"""Remedies that cost nothing on the chip, tried: other settings of the compilation, and fitted outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cimc.budget.bench import Bench, Outcome
from cimc.budget.levers import lever
from cimc.budget.result import Lever
from cimc.compiler import compile_model
from cimc.errors import CimcError
from cimc.ir.records import ONCE
from cimc.report.calibrate import FEW_IMAGES
from cimc.runtime.chip import Chip
from cimc.runtime.draws import INFERENCE
from cimc.runtime.executor import Executor, image_count
from cimc.runtime.fitting import fit_steps, ideal_executor
from cimc.targets.description import figures_of

#: Settings that are tried together; none: calibration data as the samples are.
_WEIGHTS = {"weights.window": "least_error", "weights.scale": "column"}
_SCALES: tuple[dict[str, str], ...] = ({}, _WEIGHTS, {**_WEIGHTS, "dac.full_scale": "least_error"})
#: Layers that are all repeated on two bit lines; `--repeat` takes the same.
_TWICE: dict[str, dict[str, int]] = {"*": {"columns": 2}}


def levers_of_fits(bench: Bench, whole: Outcome, others: Sequence[Mapping[str, Any]]) -> list[Lever]:
    """Outputs fitted on inputs that are none of the samples, where there are enough."""
    chip = bench.chip
    images = sum(image_count(chip.program.inputs, batch) for batch in others)
    if images < FEW_IMAGES or whole.sqnr_db is None:
        return []
    plain = Executor(chip.program, chip.crossbars, chip.noise_seed)
    fits, _ = fit_steps(chip.program, plain, ideal_executor(chip.program, chip.noise_seed), others, "moments", INFERENCE)
    what = f"outputs fitted on the chip, on {images} other inputs (cimc calibrate)"
    return [lever(whole, bench.fitted(fits), what, "calibration")]


def levers_of_settings(bench: Bench, whole: Outcome) -> list[Lever]:
    """Other compilations, with the samples as calibration data; of a program whose devices hold what was compiled."""
    chip, program = bench.chip, bench.chip.program
    if whole.sqnr_db is None or any(name.startswith("state/") for name in program.tensors):
        return []
    figures, found = figures_of(program.target), list[Lever]()
    batches = bench.samples.batches
    whole_batch = {
        name: np.concatenate([batch[name] for batch in batches]) if value.ndim and len(batches) > 1 else value
        for name, value in batches[0].items()
        if isinstance(value, np.ndarray)
    }
    repeated = {layer.name: layer.repeats.model_dump() for layer in program.layers if layer.repeats != ONCE}
    tried: list[tuple[dict[str, str], dict[str, dict[str, int]]]] = []
    for settings in _SCALES:
        new = {path: value for path, value in settings.items() if figures[path] != value}
        if (new, repeated) not in tried and (new or not settings):
            tried.append((new, repeated))
    if not repeated:
        tried.append(({}, _TWICE))
    for new, repeats in tried:
        try:
            state = compile_model(
                program.to_onnx(), program.target, calibration=whole_batch, settings=new, repeats=repeats or None
            )
            other = Chip(state.need_program(), chip.seed)
        except CimcError:  # a setting that this chip cannot have, or repeats that do not fit it
            continue
        other.at_time(chip.time_s)
        first = np.cumsum([0, *(image_count(program.inputs, batch) for batch in batches)])
        outputs = [other.run(b, int(n))[program.outputs[0].name] for b, n in zip(batches, first, strict=False)]
        words = [f"--set {path}={value}" for path, value in new.items()]
        words += ["--repeat '*:columns=2' (twice the devices)"] if repeats is _TWICE else []
        what = f"compile with {' '.join(words) or 'calibration data as these samples'}"
        brought = lever(whole, bench.samples.outcome(outputs), what, "setting")
        if not found or brought.gained_db != found[-1].gained_db:  # a setting that has changed nothing
            found.append(brought)
    return found
