"""Endurance counts what the target says, each rule counts what it does, and a chip that is programmed anew stays worn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.runtime.pulses import PulseWriter
from cimc.runtime.write import Writer, writer
from cimc.targets.load import load_target
from tests.training import small

VERIFY = {"update.programming": "write_verify"}


def settings(endurance: int, unit: str, **more: Any) -> dict[str, Any]:
    return {"device.endurance_writes": endurance, "device.endurance_unit": unit, **more}


def test_in_pulses_a_device_moves_by_as_many_pulses_as_it_endures_and_no_more() -> None:
    """Noiseless pulses of 1 µS, a goal 20 µS away: the conductance tells the pulses that moved it."""
    figures = {"set_us": 1.0, "reset_us": 1.0, "doubling_v": None, "cycle_spread": None, "device_spread": None}
    figures |= {"verify_sigma_us": 0.0, "tolerance_us": 0.6, "trials": 1, "training_trials": 1}
    own = {f"device.write_verify.{name}": value for name, value in figures.items()} | VERIFY
    target = load_target("bulk-rram", settings(25, "pulses", **own))
    g_us, writes, pulses = np.full(3, 10.0, np.float32), np.zeros(3, np.uint32), np.array([0, 18, 25], np.uint32)
    writer = Writer(target, g_us, writes, 1, pulses=pulses)
    done = writer.write(np.arange(3), np.full(3, 30.0, np.float32))
    most = len(writer.programmer.volts)  # pulses of a train
    assert most == 16
    np.testing.assert_allclose(g_us, [26.0, 17.0, 10.0])  # 16 pulses; 7 that were left of 25; none
    assert pulses.tolist() == [16, 34, 41]  # the controller gives them all
    assert (writes.tolist(), done.worn) == ([1, 1, 1], 2)
    done = writer.write(np.array([0]), np.full(1, 30.0, np.float32))
    assert g_us[0] == pytest.approx(30.0)
    assert (pulses[0], done.worn) == (16 + 5 + 1, 0)  # up to 31, the first beyond the tolerance, then one down


def test_in_writes_a_write_is_one_use_however_many_pulses_it_takes() -> None:
    target = load_target("bulk-rram", settings(2, "writes", **VERIFY))
    g_us, writes = np.full(1, 10.0, np.float32), np.zeros(1, np.uint32)
    writer = Writer(target, g_us, writes, 1)
    for number, goal in enumerate((30.0, 12.0, 30.0)):
        before = g_us[0]
        done = writer.write(np.zeros(1, np.int64), np.full(1, goal, np.float32))
        assert (done.worn == 1) == (number == 2)
        assert (g_us[0] != before) == (number < 2)


@pytest.mark.parametrize("unit", ["writes", "pulses"])
@pytest.mark.parametrize("programming", ["gaussian", "polynomial"])
def test_a_direct_write_is_a_use_in_writes_and_none_in_pulses(programming: str, unit: str) -> None:
    """By the kernel and by the device model alike; a device that pulses wore out keeps its conductance."""
    target = load_target("bulk-rram", settings(2, unit, **{"device.programming.kind": programming}))
    g_us, writes, pulses = np.full(2, 10.0, np.float32), np.zeros(2, np.uint32), np.array([1, 2], np.uint32)
    given = writer(target, g_us, writes, 1, pulses=pulses if unit == "pulses" else None)
    for number in range(4):
        before = g_us.copy()
        done = given.write(np.arange(2), np.full(2, 30.0 if number % 2 else 12.0, np.float32))
        able = [True, False] if unit == "pulses" else [number < 2] * 2
        assert (g_us != before).tolist() == able
        assert done.worn == 2 - sum(able)
    assert (writes.tolist(), pulses.tolist()) == ([4, 4], [1, 2])


@pytest.mark.parametrize("unit", ["writes", "pulses"])
def test_each_blind_pulse_is_a_use_in_either_unit(unit: str) -> None:
    quiet = {"device.pulse.cycle_spread": None, "device.pulse.device_spread": None}
    target = load_target("bulk-rram", settings(5, unit, **quiet))
    other = load_target("bulk-rram", quiet)
    g_us, free = np.full(2, 12.0, np.float32), np.full(2, 12.0, np.float32)
    writer = PulseWriter(target, g_us, np.zeros(2, np.uint32), 1)
    done = writer.pulse(np.arange(2), np.array([8, 3], np.int32))
    PulseWriter(other, free, np.zeros(2, np.uint32), 1).pulse(np.arange(2), np.array([5, 3], np.int32))
    np.testing.assert_array_equal(g_us, free)
    assert done.worn == 3


def test_endurance_in_pulses_wants_writes_that_have_pulses() -> None:
    with pytest.raises(cimc.CimcError, match="endurance counts pulses, and a direct write"):
        small.trainer(small.chip(**settings(100, "pulses")))
    small.trainer(small.chip(**settings(100, "pulses")), update="residual")


#: Options by which a device is written more than once within a few steps.
OFTEN: dict[str, Any] = {"threshold": 0.01, "lr": 0.03, "init": "weights"}
NAIVE: dict[str, Any] = {"update": "naive", "optimizer": "sgd", "lr": 30.0, "init": "weights"}
RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "threshold": ({}, OFTEN),
    "naive": ({}, NAIVE),
    "residual": ({"device.pulse.cycle_spread": None}, {"update": "residual", "init": "weights", "limit": 0.0}),
    "write_verify": (VERIFY, OFTEN),
    "naive, write_verify": (VERIFY, NAIVE),
}


@pytest.mark.parametrize(("target", "options"), RULES.values(), ids=RULES)
def test_counters_of_devices_are_the_writes_of_their_rule(target: dict[str, Any], options: dict[str, Any]) -> None:
    """The total of all devices is that of the history; only counted devices have moved, worn ones have not."""
    x, y = small.data(48)
    chip = small.chip(**settings(1, "writes", **target))
    trainer = small.trainer(chip, **options)
    total, moved_after_wear = 0, 0
    for _ in range(4):
        g_us = {name: crossbar.g_us.copy() for name, crossbar in chip.crossbars.items()}
        writes = {name: chip.memory[f"{name}/writes"].copy() for name in chip.crossbars}
        history = trainer.fit(x, y, epochs=1)
        for name, crossbar in chip.crossbars.items():
            moved, now = crossbar.g_us != g_us[name], chip.memory[f"{name}/writes"]
            assert not (moved & (now == writes[name])).any()
            moved_after_wear += int((moved & (writes[name] >= 1)).sum())
        total = sum(int(chip.memory[f"{name}/writes"].sum()) for name in chip.crossbars)
        assert total == history.cost["writes"]["device_writes"]
    assert total > 0
    assert moved_after_wear == 0
    assert history.cost["writes"]["worn"] > 0


def test_pulses_are_kept_with_the_chip(tmp_path: Any) -> None:
    x, y = small.data(48)
    chip = small.chip(**settings(40, "pulses", **VERIFY))
    history = small.trainer(chip, **OFTEN).fit(x, y, epochs=2)
    given = sum(int(chip.memory[f"{name}/pulses"].sum()) for name in chip.crossbars)
    assert given == history.cost["writes"]["pulses"] > 0
    chip.save(tmp_path / "t.cim")
    again = cimc.Chip(cimc.load(tmp_path / "t.cim"))
    trainer = small.trainer(again, threshold=0.01, lr=0.03)
    assert sum(int(again.memory[f"{name}/pulses"].sum()) for name in again.crossbars) == given
    more = trainer.fit(x, y, epochs=1, checkpoint=tmp_path / "run")
    own = sum(int(again.memory[f"{name}/pulses"].sum()) for name in again.crossbars)
    assert own - given == more.cost["writes"]["pulses"]


@pytest.mark.parametrize("init", ["weights", "devices"])
def test_a_trained_chip_that_starts_anew_stays_worn(init: Any) -> None:
    x, y = small.data(48)
    chip = small.chip(**settings(2, "writes"))
    small.trainer(chip, **OFTEN).fit(x, y, epochs=4)
    writes = {name: chip.memory[f"{name}/writes"].copy() for name in chip.crossbars}
    g_us = {name: crossbar.g_us.copy() for name, crossbar in chip.crossbars.items()}
    assert any((counts >= 2).any() for counts in writes.values())
    small.trainer(chip, init=init)
    anew = 0
    for name, crossbar in chip.crossbars.items():
        worn = writes[name] >= 2
        np.testing.assert_array_equal(chip.memory[f"{name}/writes"], writes[name] + (init == "weights"))
        np.testing.assert_array_equal(crossbar.g_us[worn], g_us[name][worn])
        anew += int((crossbar.g_us != g_us[name])[writes[name] == 1].sum())
    assert anew > 0
