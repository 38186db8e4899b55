"""A program goes to another chip: cut, scaled and placed anew, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError, FitError
from cimc.image.cells import code_grid
from tests.image.models import exact, inputs, network


@pytest.fixture(scope="module")
def program() -> Any:
    return cimc.compile(network(), exact(), calibration={"x": inputs(seed=9)["x"] * 3})


def test_its_own_chip_keeps_places_and_scales(program: Any) -> None:
    image = cimc.export_image(program)
    assert image.layers == program.layers
    for number, layer in enumerate(program.layers):
        table = program.tensors[f"blocks/{layer.name}"]
        for (record, rows, columns), block in zip(image.segments(number), table, strict=True):
            assert (record["chip"], record["tile"]) == (block[3], block[4])
            assert rows.tolist() == list(range(block[5], block[5] + block[7]))
            assert columns.tolist() == list(range(block[6], block[6] + block[8]))
        np.testing.assert_array_equal(image.compiled.tensors[f"blocks/{layer.name}"], table)


@pytest.mark.parametrize(
    "changes",
    [
        {"array__rows": 8, "array__columns": 6},
        {"device__g_min_us": 2.0, "device__g_max_us": 90.0, "device__levels": 32},
        {"adc__range_ua": 3.0},
        {"weights__representation": "offset", "array__unit_column": True},
        {"device__levels": 4, "weights__bits": 8, "weights__cells": 4},
        {"dac__bits": 4, "adc__bits": 6},
    ],
)
def test_another_chip_holds_the_same_weights(program: Any, changes: dict[str, Any]) -> None:
    target = exact(**changes)
    image = cimc.export_image(program, target)
    assert [layer.name for layer in image.layers] == [layer.name for layer in program.layers]
    segments = image.sections["SEGM"]
    assert segments["height"].max() <= target.array.rows
    assert segments["width"].max() <= target.array.columns
    for name in ("w1", "w2"):
        weights = program.tensors[f"initializer/{name}"]
        steps = {4: 127, 32: 31}.get(target.device.levels or 0, 15)
        half = np.abs(weights).max() / steps * (2 if target.array.unit_column else 1)
        np.testing.assert_allclose(image.compiled.tensors[f"initializer/{name}"], weights, atol=half / 2 * 1.001)
    expected = cimc.Chip(program).run(inputs(), 0)["y"]
    found = image.program(seed=1, error_free=True).run(inputs(), 0)["y"]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def test_measured_input_scales_are_kept_and_named(program: Any) -> None:
    image = cimc.export_image(program, exact(array__rows=8))
    for old, new in zip(program.layers, image.layers, strict=True):
        assert new.coding.full_scale == pytest.approx(old.coding.full_scale, rel=1e-6)
    assert any("input scales kept of: first, second" in note for note in image.meta["notes"])
    assert image.compiled.inputs == program.inputs


def test_calibration_data_take_their_place(program: Any) -> None:
    data = inputs(seed=5)
    image = cimc.export_image(program, exact(array__rows=8), calibration=data)
    assert image.layers[0].coding.full_scale == pytest.approx(data["x"].max(), rel=1e-3)
    assert not any("kept" in note for note in image.meta["notes"])


def test_an_export_from_a_die_is_the_same_layers_again(program: Any) -> None:
    first = cimc.export_image(program, exact(array__rows=8))
    die = first.program(error_free=True)
    again = cimc.export_image(die, exact(array__rows=11), source="readback")
    assert [layer.name for layer in again.layers] == ["first", "second"]
    for name in ("w1", "w2"):
        one, two = (image.compiled.tensors[f"initializer/{name}"] for image in (first, again))
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_recurrent_cell_shares_its_weights_on_the_other_chip_too() -> None:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R"], ["y"], "cell", hidden_size=4)],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, "N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 1, "N", 4])],
        [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in (("W", (1, 16, 3)), ("R", (1, 16, 4)))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    compiled = cimc.compile(model, exact())
    image = cimc.export_image(compiled, exact(array__rows=9))
    assert len(image.layers) == len(compiled.layers)
    x = {"x": random.random((5, 3, 3)).astype(np.float32)}
    close = image.program(error_free=True).run(x)["y"], cimc.Chip(compiled).run(x)["y"]
    np.testing.assert_allclose(close[0], close[1], atol=0.1)


def test_what_cannot_fit_is_refused_with_levers(program: Any) -> None:
    with pytest.raises(FitError, match="tiles too many") as caught:
        cimc.export_image(program, exact(array__rows=4, array__tiles_per_chip=2), chips=1)
    assert "--chips" in str(caught.value)
    with pytest.raises(FitError, match="an ideal chip has no devices"):
        cimc.export_image(program, "ideal")
    with pytest.raises(FitError, match=r"chips > 1 chips, \d+ too many"):
        cimc.export_image(cimc.compile(network(), exact(array__rows=4, array__tiles_per_chip=1)), chips=1)


def test_arguments_are_checked(program: Any) -> None:
    with pytest.raises(CimcError, match="no devices to read back"):
        cimc.export_image(program, source="readback")
    with pytest.raises(CimcError, match="a str is no chip and no program"):
        cimc.export_image("model.cim")  # type: ignore[arg-type]
    with pytest.raises(CimcError, match="longer than 64 bytes"):
        cimc.export_image(program, die="x" * 65)
    with pytest.raises(CimcError, match="programming is 'pulses'"):
        cimc.export_image(program).program(programming="pulses")  # type: ignore[arg-type]
    with pytest.raises(CimcError, match="source is 'nothing'"):
        cimc.export_image(program, source="nothing")  # type: ignore[arg-type]


def test_the_source_is_said(program: Any) -> None:
    chip = cimc.Chip(program, seed=12)
    image = cimc.export_image(chip, source="readback", training={"epochs": 3}, die="w3-07")
    assert (image.source, image.die, int(image.identity["seed"])) == ("readback", "w3-07", 12)
    assert image.meta["training"] == {"epochs": 3}
    assert cimc.export_image(chip).source == "target"


def test_read_back_is_what_the_devices_hold() -> None:
    noisy = exact(device__programming__sigma_us=1.0, device__programming__mean_us=0.5)
    chip = cimc.Chip(cimc.compile(network(), noisy), seed=2)
    image = cimc.export_image(chip, source="readback")
    # The nearest code is half a step away at most; both sides are float32, below 64 µS.
    nearest_us = code_grid(chip.program.target)[1] / 2 + np.spacing(np.float32(63))
    for number, layer in enumerate(image.layers):
        np.testing.assert_allclose(image.goals(number).g_us, chip.conductances(layer.name), rtol=0, atol=nearest_us)
    other = cimc.export_image(chip, exact(array__rows=8, device__levels=None, weights__rounded=False), source="readback")
    held = chip.weights()
    for layer, name in zip(image.layers, ("w1", "w2"), strict=True):
        np.testing.assert_allclose(other.compiled.tensors[f"initializer/{name}"].ravel(), held[layer.name].ravel(), atol=1e-5)


def test_the_schedule_becomes_instructions(program: Any) -> None:
    image = cimc.export_image(program)
    names = [image.sections["TEXT"].tobytes()[n["offset"] : n["offset"] + n["bytes"]].decode() for n in image.sections["NAME"]]
    stream = []
    for record in image.sections["INST"]:
        first, count = int(record["first_operand"]), int(record["inputs"]) + int(record["outputs"])
        stream.append((int(record["opcode"]), [names[k] for k in image.sections["OPER"][first : first + count]]))
    kinds = [opcode for opcode, _ in stream]
    assert kinds == [1, 3, 2, 4, 3, 5, 0]  # input, vmm, digital, barrier, vmm, output, end
    assert stream[0][1] == ["x"]
    assert stream[-2][1] == ["y"]
    assert stream[1][1][0] == "x"


def test_the_pulse_recipe_is_in_si_units(program: Any) -> None:
    recipe = cimc.export_image(program, exact(device__write_verify__pulse_ns=200, array__rows=8)).sections["RECI"][0]
    assert recipe["kind"] == 1
    assert recipe["trials"] == 5
    assert recipe["start_v"] == 1.5
    assert recipe["set_s"] == pytest.approx(4e-6)
    assert recipe["pulse_time_s"] == pytest.approx(2e-7)
    assert np.isnan(recipe["pulse_energy_j"])
