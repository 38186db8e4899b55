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
from cimc.report.calibrate import FEW_IMAGES
from cimc.runtime.chip import Chip
from cimc.runtime.draws import INFERENCE
from cimc.runtime.executor import Executor, image_count
from cimc.runtime.fitting import fit_steps, ideal_executor
from cimc.targets.description import figures_of

#: Settings that are tried together.
_WEIGHTS = {"weights.window": "least_error", "weights.scale": "column"}
_SCALES = (_WEIGHTS, {**_WEIGHTS, "dac.full_scale": "least_error"})


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
    """The scales of least error, with the samples as calibration data; of a program whose devices hold what was compiled."""
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
    tried: list[Mapping[str, Any]] = []
    for settings in _SCALES:
        new = {path: value for path, value in settings.items() if figures[path] != value}
        if not new or new in tried:
            continue
        tried.append(new)
        try:
            state = compile_model(program.to_onnx(), program.target, calibration=whole_batch, settings=new)
            other = Chip(state.need_program(), chip.seed)
        except CimcError:  # a setting that this chip cannot have
            continue
        other.at_time(chip.time_s)
        first = np.cumsum([0, *(image_count(program.inputs, batch) for batch in batches)])
        outputs = [other.run(b, int(n))[program.outputs[0].name] for b, n in zip(batches, first, strict=False)]
        what = "compile with " + " ".join(f"--set {path}={value}" for path, value in new.items())
        brought = lever(whole, bench.samples.outcome(outputs), what, "setting")
        if not found or brought.gained_db != found[-1].gained_db:  # a setting that has changed nothing
            found.append(brought)
    return found
