"""Figures that were stated for one array, converter or window are not taken for another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.targets import app
from cimc.errors import TargetError
from cimc.ir.cost import cost
from cimc.targets.description import Target, figures_of, kinds_with
from cimc.targets.load import available_targets, load_target
from cimc.targets.stated import COST, DERIVED, as_known
from tests.ir.crossbar_programs import LENET, chain, through
from tests.training.small import data, model

BOTH = {"timing.tile_op_ns", "timing.tile_op_energy_nj"}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "300"})


@pytest.mark.parametrize("name", available_targets())
def test_a_built_in_chip_states_all_its_figures_for_itself(name: str) -> None:
    target = load_target(name)
    assert target.stated_for == {}
    assert as_known(target) == target
    assert "stated_for" not in target.model_dump()
    own = target.device.programming.kind
    stated = {path for path in (*COST, *DERIVED) if "transposed" not in path and own in (kinds_with(path) or (own,))}
    assert set(figures_of(target)) >= stated


CHANGES: dict[str, Any] = {
    "array.rows": 128, "array.columns": 32, "dac.bits": 6, "adc.bits": 7, "device.read_voltage_v": 0.2, "device.g_max_us": 40.0,
    "device.g_min_us": 4.0, "adc.conversion": "per_bit",
}  # fmt: skip


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_chip_has_neither_the_time_nor_the_energy(path: str) -> None:
    target = load_target("bulk-rram", {path: CHANGES[path]})
    found = cost(through(chain(target, LENET)))
    assert set(found.latency_ms.model_dump().values()) == set(found.energy_mj.model_dump().values()) == {None}
    assert found.ops == 641
    old = figures_of(load_target("bulk-rram"))[path]
    (note,) = [note for note in found.notes if "tile_op_ns" in note]
    assert note == f"not used: timing.tile_op_ns 720.0 ns was stated for {old}, not for {path} {CHANGES[path]}"
    assert any("timing.tile_op_energy_nj 2.66 nJ" in note for note in found.notes)


@pytest.mark.parametrize(
    "change", [{"array.tiles_per_chip": 9}, {"device.levels": 16}, {"mapping.split": "rows"}, {"array.rows": 64}]
)
def test_what_a_figure_does_not_depend_on_may_change(change: dict[str, Any]) -> None:
    assert not BOTH & load_target("bulk-rram", change).stated_for.keys()


def test_a_figure_stated_anew_in_the_same_place_is_used() -> None:
    target = load_target("bulk-rram", ["adc.bits=6", "timing.tile_op_ns=540"])
    assert target.stated_for.keys() & BOTH == {"timing.tile_op_energy_nj"}
    found = cost(through(chain(target, LENET)))
    assert found.latency_ms.pipelined == pytest.approx(576 * 540e-6)
    assert found.energy_mj.analog is None
    again = load_target(target, ["adc.bits=8"])
    assert again.stated_for == {"timing.tile_op_ns": {"adc.bits": 6}}


def test_each_file_of_a_chain_states_figures_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: bulk-rram\narray: {rows: 128}\ntiming: {tile_op_ns: 900}\n")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml\ndescription: the same\n")
    (tmp_path / "c.yaml").write_text("extends: ./b.yaml\narray: {rows: 64}\n")
    a, b, c = (load_target(tmp_path / f"{name}.yaml") for name in "abc")
    assert a.stated_for == b.stated_for == {"timing.tile_op_energy_nj": {"array.rows": 64}}
    assert c.stated_for == {"timing.tile_op_ns": {"array.rows": 128}}  # the energy is right again


def test_it_survives_saving(tmp_path: Path) -> None:
    program = cimc.compile(model(), settings={"array.rows": 32}, calibration={"x": data(8)[0]})
    program.save(tmp_path / "m.cim")
    loaded = cimc.load(tmp_path / "m.cim")
    assert loaded.cost() == program.cost()
    assert loaded.cost().energy_mj.analog is None
    target = loaded.target
    assert load_target(target) == target == Target.model_validate_json(target.model_dump_json())
    assert load_target(target, ["array.rows=64"]).stated_for == {}


def test_training_gives_no_time_either() -> None:
    x, y = data(16)
    program = cimc.compile(model(), settings={"array.rows": 32, "timing.programming_ns": 50.0}, calibration={"x": x})
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=16)
    trainer.step(x, y)
    found = trainer.cost()
    assert (found["latency_ms"]["analog"], found["energy_mj"]["analog"]) == (None, None)
    assert found["latency_ms"]["writes"] == pytest.approx(50e-6 * found["writes"]["device_writes"])
    assert "timing.tile_op_ns 720.0 ns was stated for 64, not for array.rows 32" in found["notes"][0]


def test_validate_names_derived_figures_left_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: bulk-rram\ndevice: {g_max_us: 80.0, levels: 8, pulse: {up_us: 0.7}}\n")
    found = json.loads(run("validate", str(path), "--json").stdout)["stale_figures"]
    tolerance = {"device.g_max_us": 32.9, "device.levels": 4}
    assert found["device.write_verify.tolerance_us"] == tolerance
    assert found["device.pulse.down_us"] == {"device.g_max_us": 32.9}
    assert "device.pulse.up_us" not in found
    said = run("validate", str(path)).stderr
    assert "left as it was: device.write_verify.tolerance_us 4.1 µS was stated for 32.9 and 4" in said
    assert "not used: timing.tile_op_ns 720.0 ns" in said


@pytest.mark.parametrize("path", ["device.kind", "device.programming.kind"])
def test_validate_refuses_kinds_that_there_are_not(tmp_path: Path, path: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: bulk-rram\n")
    with pytest.raises(TargetError, match=r"no model 'magic'"):
        run("validate", str(file), "--set", f"{path}=magic")
    with pytest.raises(TargetError, match=r"update\.rule: no model 'magic'"):
        run("validate", str(file), "--set", "update.rule=magic")


def test_a_figure_of_ones_own_has_no_source_and_no_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\narray: {rows: 32}\n")
    lines = {line.split()[1]: line for line in run("show", str(path)).stdout.splitlines() if "array." in line}
    assert "no source" in lines["array.rows"]
    assert "default" in lines["array.columns"]
