"""What a trained program says of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from cimc.ir.program import Program
from cimc.targets.description import figures_of


def with_training(program: Program, settings: Mapping[str, Any], init: str, run: Mapping[str, Any], calibration: str) -> Program:
    """The program with ``provenance.training``, in which ``continues`` is the training that this one goes on from.

    Args:
        program: That is trained.
        settings: Of the trainer.
        init: What W and devices began as.
        run: Of the call: epochs and data.
        calibration: What input gains and ADC ranges are chosen on.
    """
    target, before = program.target, program.provenance.training
    own = {name.replace(" ", "_"): value for name, value in settings.items() if name != "model"}
    chosen = {
        "target": target.name,
        "target_figures": {path: value for path, value in figures_of(target).items() if path != "description"},
        "update": own["update"] or target.update.rule,
        "window": target.update.window_he if own["window"] is None and own["w_max"] is None else own["window"],
        "init": init,
    }
    training = {**own, **chosen, **run, **({} if before is None else {"continues": before})}
    text = to_json(training, inf_nan_mode="null", fallback=lambda value: getattr(value, "tolist", value.__str__)())
    basis = {} if target.is_ideal else {"calibration": f"on the chip, {calibration}"}
    provenance = program.provenance.model_copy(update={"training": from_json(text), **basis})
    return program.model_copy(update={"provenance": provenance})
