"""Training on a chip with wires: reads follow each write, analog gradients too, and what is saved goes on to the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import cimc
from cimc.runtime.crossbar import Crossbar
from cimc.threads import set_threads
from cimc.training.history import Callback

from .small import chip, data, trainer

X, Y = data(80)
#: A quarter of the current.
WIRES = {"row_segment_ohm": 20.0, "column_segment_ohm": 20.0, "driver_ohm": 600.0, "sense_ohm": 600.0}


def wired(**settings: Any) -> cimc.Chip:
    return chip(**{"array.wires": WIRES, "array.transposed": {}, **settings})


def solved_anew(bar: Crossbar) -> np.ndarray:
    fresh = Crossbar(bar.layer, bar.matrix, bar.weight_max, bar.target, bar.chip_seed, cells=bar.cells)
    fresh.hold(bar.held)
    return fresh.effective[0].g_us


@pytest.mark.parametrize("backward", ["digital", "analog"])
@pytest.mark.parametrize("rule", ["threshold", "residual"])
def test_it_learns_on_what_its_reads_see(backward: Literal["digital", "analog"], rule: Literal["threshold", "residual"]) -> None:
    own = wired()
    lost = [1 - bar.effective[0].g_us.sum() / bar.g_us.sum() for bar in own.crossbars.values()]
    assert min(lost) > 0.1
    made = trainer(own, backward=backward, update=rule, lr=0.02)
    made.fit(X, Y, epochs=6)
    assert made.evaluate(X, Y)["accuracy"] > 0.7
    for bar in own.crossbars.values():
        np.testing.assert_array_equal(bar.effective[0].g_us, solved_anew(bar))


class StopError(Exception):
    pass


class Stop(Callback):
    """Ends a run at its seventh step."""

    def __init__(self) -> None:
        self.left = 7

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise StopError


def test_saved_and_resumed_it_is_the_same_chip(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 2}
    whole = trainer(wired())
    whole.fit(X, Y, checkpoint=tmp_path / "whole", **options)
    with pytest.raises(StopError):
        trainer(wired(), callbacks=[Stop()]).fit(X, Y, checkpoint=tmp_path / "half", **options)
    resumed = trainer(wired())
    resumed.fit(X, Y, checkpoint=tmp_path / "half", resume=True, **options)
    whole.chip.save(tmp_path / "chip.cim")
    saved = cimc.Chip(cimc.load(tmp_path / "chip.cim"))
    expected = whole.chip.run({"x": X}, 0)["y"]
    for other in (resumed.chip, saved):
        np.testing.assert_array_equal(other.run({"x": X}, 0)["y"], expected)
        for name, bar in other.crossbars.items():
            np.testing.assert_array_equal(bar.effective[0].g_us, solved_anew(whole.chip.crossbars[name]))


def test_bytes_depend_on_no_number_of_threads() -> None:
    found = []
    for number in (1, 2):
        set_threads(number)
        try:
            made = trainer(wired())
            made.fit(X, Y, epochs=1)
            found.append([made.chip.conductances(name).tobytes() for name in made.chip.crossbars])
        finally:
            set_threads(None)
    assert found[0] == found[1]
