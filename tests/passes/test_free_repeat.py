"""The pass ``free-repeat``: rows of narrow layers on free word lines, where that brings much and an image costs no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import cimc
from cimc.cli.app import app
from cimc.compiler import compile_model
from cimc.errors import CimcError, VerifyError
from cimc.ir.cost import cost
from cimc.passes.base import Compilation
from cimc.passes.free_repeat import LEAST_DB, FreeRepeat, costs_no_more
from tests.cli.conftest import cimc as command
from tests.passes.graph_text import nodes

TEXT = """<ir_version: 8, opset_import: ["": 17]> narrow (float[N, 1, 10, 10] x) => (float[N, 24] y) {
    a = Conv (x, w1)  c = Relu (a)  d = Conv (c, w2)  e = Relu (d)  f = Flatten (e)  y = MatMul (f, w3)
}"""
#: Noise of the converter, which a narrow first layer suffers most from.
NOISY: dict[str, Any] = {"adc.sigma_lsb": 2.0}


def model(channels: int = 1) -> onnx.ModelProto:
    """A convolution of 9 rows for each channel, one of 144 rows, and a product of 288."""
    proto = onnx.parser.parse_model(TEXT.replace("[N, 1,", f"[N, {channels},"))
    random = np.random.default_rng(0)
    shapes = {"w1": (16, channels, 3, 3), "w2": (8, 16, 3, 3), "w3": (288, 24)}
    for name, shape in shapes.items():
        weights = random.normal(0, 0.4, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return proto


def images(count: int = 32, channels: int = 1, seed: int = 1) -> dict[str, Any]:
    dark = np.random.default_rng(seed).random((count, channels, 10, 10)) ** 3
    return {"x": dark.astype(np.float32)}


def state(repeats: Any = "free", target: str = "bulk-rram-256", channels: int = 1, **options: Any) -> Compilation:
    given = {"calibration": images(channels=channels), "settings": NOISY, **options}
    return compile_model(model(channels), target, repeats=repeats, **given)


def rows_of(made: Compilation) -> list[int]:
    return [layer.repeats.rows for layer in made.need_program().layers]


@pytest.fixture(scope="module")
def free() -> Compilation:
    return state()


@pytest.fixture(scope="module")
def once() -> Compilation:
    """The same with each row once."""
    return state("none")


def test_text(free: Compilation, once: Compilation) -> None:
    """The example of the module's text: the first layer has repeats, the others are as they were."""
    before, after = nodes(once.model), nodes(free.model)
    changed = [line for line in after if line not in before and "repeats" in line]
    assert len(changed) == 1
    assert re.search(r'layer: string = "Conv_0".*repeats: ints = \[\d+, 1, 1\]', changed[0])
    assert not any("repeats" in line for line in before)


def test_the_program_is_that_of_the_same_repeats_by_hand(free: Compilation) -> None:
    """But for what it says of them."""
    layer, *others = free.need_program().layers
    assert layer.repeats.rows > 1
    assert all(other.repeats.rows == 1 for other in others)
    by_hand = state({layer.name: {"rows": layer.repeats.rows}}).need_program()
    found = free.need_program()
    assert found.tensors.keys() == by_hand.tensors.keys()
    for name, tensor in by_hand.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor, err_msg=name)
    same = {"placements": (), "provenance": by_hand.provenance}
    assert found.model_copy(update=same).model_dump_json() == by_hand.model_copy(update=same).model_dump_json()
    assert tuple(note for note in found.provenance.notes if "rows lie" not in note) == by_hand.provenance.notes


def test_an_image_costs_what_it_did(free: Compilation, once: Compilation) -> None:
    new, old = free.need_program().cost(), once.need_program().cost()
    for word in ("crossbars", "tiles", "chips", "ops", "tile_ops", "latency_ms", "energy_mj"):
        assert getattr(new, word) == getattr(old, word), word
    assert old.devices < new.devices <= 1.1 * old.devices
    counts = []
    for program in (free.need_program(), once.need_program()):
        chip = cimc.Chip(program)
        chip.run(images(4))
        counts.append([(c["tile_reads"], c["adc_conversions"]) for c in chip.stats().values()])
    assert counts[0] == counts[1]


def test_the_outputs_of_dice_get_better_as_forecast(free: Compilation, once: Compilation) -> None:
    """Twelve dice each; the forecast of an output is good to 2 dB."""
    x = images(seed=7)
    exact = cimc.Chip(cimc.compile(model(), "ideal")).run(x)["y"]
    power = {}
    for name, program in (("free", free.need_program()), ("none", once.need_program())):
        dice = [np.square(cimc.Chip(program, seed).run(x)["y"] - exact).mean() for seed in range(12)]
        power[name] = 10 * np.log10(np.square(exact).mean() / np.mean(dice))
        assert program.forecast().outputs[0].sqnr_db == pytest.approx(power[name], abs=2.0)
    assert power["free"] > power["none"] + LEAST_DB


def test_notes_and_placements_say_so(free: Compilation) -> None:
    program = free.need_program()
    rows = program.layers[0].repeats.rows
    (note,) = (note for note in free.notes if "word lines" in note)
    assert f"{program.layers[0].name} {rows} times" in note
    assert "--repeat none" in note
    assert note in program.provenance.notes
    told = [row.why for row in program.placements if "on free word lines" in row.why]
    assert [f"rows {rows} times" in why for why in told] == [True]


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": None},
        {"settings": {"adc.sigma_lsb": 0.0, "device.programming.sigma_us": 0.1}},
        {"target": "ideal", "settings": None},
        {"target": "isaac", "settings": None},
        {"settings": {**NOISY, "update.rule": "ttv2", "device.pulse.up_us": 0.4, "device.pulse.down_us": 0.4}},
        {"settings": {**NOISY, "array.wires.row_segment_ohm": 1.0, "array.wires.column_segment_ohm": 1.0}},
        {"settings": {**NOISY, "array.rows": 17}},
        {"channels": 15},
    ],
    ids=["no data", "good outputs", "ideal", "isaac", "rule of several arrays", "wires", "short arrays", "wide layers"],
)
def test_where_a_condition_fails_the_program_is_that_without_repeats(options: dict[str, Any]) -> None:
    if "rows" in str(options):
        options = {**options, "settings": {**options["settings"], "mapping.split": "rows"}}
    made, plain = state(**options), state("none", **options)
    assert set(rows_of(made)) == {1}
    assert made.notes == plain.notes
    one, other = made.need_program(), plain.need_program()
    assert one.model_dump_json() == other.model_dump_json()
    for name, tensor in other.tensors.items():
        np.testing.assert_array_equal(one.tensors[name], tensor, err_msg=name)


def test_costs_are_compared_figure_by_figure(once: Compilation) -> None:
    one = cost(once.need_program())
    assert costs_no_more(one, one)
    assert not costs_no_more(one.model_copy(update={"tiles": one.tiles + 1}), one)  # type: ignore[operator]
    assert not costs_no_more(one.model_copy(update={"devices": 2 * one.devices}), one)
    slow = one.latency_ms.model_copy(update={"placed": 2 * (one.latency_ms.placed or 1.0)})
    assert not costs_no_more(one.model_copy(update={"latency_ms": slow}), one)
    unknown = one.latency_ms.model_copy(update={"placed": None})
    assert not costs_no_more(one.model_copy(update={"latency_ms": unknown}), one)


def test_what_is_refused() -> None:
    with pytest.raises(VerifyError, match="no places yet"):
        FreeRepeat(wanted=True).requires(state("none", stop_after="ranges"))
    broken = state("none")
    for node in broken.model.graph:
        if node.domain == "cimc":
            node.attributes.add(ir.AttrInt64s("repeats", [2, 1, 1]))
    with pytest.raises(VerifyError, match="repeats are not those of the graph"):
        FreeRepeat().ensures(broken)
    with pytest.raises(CimcError, match="it must be a dict by name"):
        cimc.compile(model(), "bulk-rram-256", repeats="some")


def test_the_command_repeats_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **images())
    base = ["compile", str(tmp_path / "m.onnx"), "--target", "bulk-rram-256", "--set", "adc.sigma_lsb=2"]
    base += ["--calibration", str(tmp_path / "d.npz"), "-o", str(tmp_path / "m.cim")]
    found = {}
    for word in ("", "none"):
        app([*base, *(["--repeat", word] if word else [])], standalone_mode=False)
        found[word] = [layer.repeats.rows for layer in cimc.load(tmp_path / "m.cim").layers]
    assert found[""] != found["none"] == [1, 1, 1]
    assert "rows lie several times" in capsys.readouterr().err
    done = command(*base, "--repeat", "free", "--repeat", "*:rows=2")
    assert done.code == 2
    assert "go alone" in done.err
