"""The chip of a resumed run is that of one that nothing stopped: copies, time, wear, noise and counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.training.history import Callback
from tests.runtime import pcm
from tests.training.small import NORMED, chip, data, model, trainer

X, Y = data(48)
AGED = pcm.CHIP | {"device.drift.compensation": "column"}
UNITS = {"weights.representation": "offset", "array.unit_column": True, "adc.conversion": "integrated"}
Change = Callable[[cimc.Chip], None]


class StopError(Exception):
    pass


class At(Callback):
    """Changes the chip once, after the second step of the training, and ends the run at a step."""

    def __init__(self, change: Change | None, stop: int | None) -> None:
        self.change, self.stop = change, stop

    def on_step(self, trainer: cimc.Trainer, *_: object) -> None:
        if trainer.steps == 2 and self.change is not None:
            self.change(trainer.chip)
        if trainer.steps == self.stop:
            raise StopError


def everything(t: cimc.Trainer) -> dict[str, bytes]:
    """All that a chip is, and what it gives afterwards."""
    c = t.chip
    program = t.program()
    found = {name: array.tobytes() for name, array in program.tensors.items()} | {"": program.model_dump_json().encode()}
    for name, crossbar in c.crossbars.items():
        for copy, held in enumerate(crossbar.held):
            found[f"{name}, copy {copy}"] = held.g_us.tobytes() + held.unit_g_us.tobytes()
            kept = {**held.arrays, **{f"unit {key}": array for key, array in held.unit_arrays.items()}}
            found |= {f"{name}, copy {copy}, {key}": array.tobytes() for key, array in kept.items()}
            found[f"{name}, copy {copy}, now"] = crossbar.present[copy].g_us.tobytes()
        for copy, factors in enumerate(crossbar.factors):
            found[f"{name}, copy {copy}, factors"] = factors.columns.tobytes() + factors.units.tobytes()
    found["stats"], found["cost"] = repr(c.stats()).encode(), repr(t.cost()).encode()
    found["time"] = repr((c.time_s, c.noise_seed, vars(c.draws))).encode()
    found["again"] = c.run({"x": X})["y"].tobytes()
    t.step(X[:16], Y[:16])
    found["after a step"] = c.run({"x": X})["y"].tobytes()
    return found


def in_copies() -> cimc.Chip:
    return cimc.export_image(chip(seed=3), copies={"Gemm_0": 2}).program(seed=4)


def second_copy(c: cimc.Chip) -> None:
    """Of the layer that does not train: other conductances, as of a copy that was programmed again."""
    c.crossbars["Gemm_0"].held[1].g_us[...] *= np.float32(0.9)
    c.crossbars["Gemm_0"].written()


def fault(c: cimc.Chip) -> None:
    c.crossbars["Gemm_0"].g_us[:, ::3] = c.program.target.device.g_min_us
    c.crossbars["Gemm_0"].written()


def used(c: cimc.Chip) -> None:
    c.run({"x": X[:5]})


def fit_outputs(c: cimc.Chip) -> None:
    c.fit_outputs({"x": X[:8]})


def aged(seconds: float) -> Change:
    return lambda c: c.advance(seconds)


def trained_before() -> cimc.Program:
    c = chip(seed=3, **AGED)
    c.advance(50.0)
    trainer(c, init="weights").step(X[:16], Y[:16])
    return c.trained_program()


def after_ageing(seconds: float, **settings: Any) -> cimc.Chip:
    c = chip(seed=3, **AGED, **settings)
    if seconds:
        c.advance(seconds)
    return c


#: Chip of the run, chip that it is resumed on, options of the trainer, what happens to the chip in the run.
RUNS: dict[str, tuple[Callable[[], cimc.Chip], Callable[[], cimc.Chip] | None, dict[str, Any], Change | None]] = {
    "that runs images": (lambda: chip(seed=3), None, {}, used),
    "that is fitted": (lambda: chip(seed=3), None, {}, fit_outputs),
    "of another noise": (lambda: cimc.Chip(trained_before(), 7), lambda: cimc.Chip(trained_before()), {}, None),
    "in copies": (in_copies, None, {"freeze": "w2"}, second_copy),
    "with faults in a layer that does not train": (lambda: chip(seed=3), None, {"freeze": "w2"}, fault),
    "that aged before": (lambda: after_ageing(70.0), lambda: after_ageing(0), {"freeze": "w2"}, aged(1e4)),
    "with unit columns": (lambda: after_ageing(70.0, **UNITS), lambda: after_ageing(0, **UNITS), {}, aged(1e4)),
    "that wears": (lambda: chip(seed=3, **{"device.endurance_writes": 3}), None, {"lr": 0.05}, None),
    "of learnt scales": (lambda: chip(seed=3, text=NORMED), None, {"learn_scales": "column"}, None),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_ends_with_the_same_chip(kind: str, tmp_path: Path) -> None:
    first, second, options, change = RUNS[kind]
    run: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 1, "validation": (X[:16], Y[:16])}
    given = {"lr": 0.02, "init": "weights", **options}
    whole = trainer(first(), callbacks=[At(change, None)], **given)
    whole.fit(X, Y, checkpoint=tmp_path / "whole", **run)
    with pytest.raises(StopError):
        trainer(first(), callbacks=[At(change, 4)], **given).fit(X, Y, checkpoint=tmp_path / "parts", **run)
    resumed = trainer((second or first)(), callbacks=[At(change, None)], **given)
    resumed.fit(X, Y, checkpoint=tmp_path / "parts", resume=True, **run)
    expected, found = everything(whole), everything(resumed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_range_of_inputs_that_was_only_assumed_stays_dropped(tmp_path: Path) -> None:
    """Training chooses ranges from its images; a resumed run that has no step left chooses none."""

    def make() -> cimc.Trainer:
        return trainer(cimc.Chip(cimc.compile(model(), "bulk-rram"), 3), init="weights")

    whole, resumed = make(), make()
    assert whole.chip.program.inputs[0].range is not None
    whole.fit(X, Y, epochs=1, checkpoint=tmp_path)
    resumed.fit(X, Y, epochs=1, checkpoint=tmp_path, resume=True)
    expected, found = everything(whole), everything(resumed)
    assert [name for name in expected if found[name] != expected[name]] == []
