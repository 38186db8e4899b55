"""Copies of a layer: each written with errors of its own, and each does its share of the positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.image.faults import FaultMap
from tests.image.models import exact, inputs, network

#: Programming errors, and a read-out too fine to hide any.
ERRORS = {"device__programming__sigma_us": 1.0, "weights__rounded": False, "adc__bits": 16, "dac__bits": 8}


def convolution() -> onnx.ModelProto:
    w = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 7, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 5, 4])],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(images: int = 5) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).random((images, 2, 7, 6), np.float32)}


def with_copies(model: onnx.ModelProto, copies: dict[str, int], **changes: Any) -> Any:
    target = exact(array__rows=64, array__columns=64, **changes)
    return cimc.compile(model, target, copies=copies)


def test_without_errors_copies_change_nothing() -> None:
    one = cimc.export_image(with_copies(convolution(), {})).program(error_free=True)
    three = cimc.export_image(with_copies(convolution(), {"conv": 3})).program(error_free=True)
    np.testing.assert_array_equal(three.run(pictures(), 0)["y"], one.run(pictures(), 0)["y"])


def only(die: Any, copy: int) -> Any:
    """The die, its first copy holding what another held, and without the rest."""
    crossbar = die.crossbars[die.program.layers[0].name]
    crossbar.hold([crossbar.held[copy]])
    return die


def test_what_is_written_to_any_copy_is_read() -> None:
    image = cimc.export_image(with_copies(convolution(), {"conv": 3}, **ERRORS))
    used, new = image.program(seed=2), image.program(seed=2)
    name = used.program.layers[0].name
    used.run(pictures(), 0)
    for die in (used, new):
        die.crossbars[name].held[2].g_us[...] = die.crossbars[name].held[0].g_us
    used.crossbars[name].written(np.arange(4))
    np.testing.assert_array_equal(used.run(pictures(), 0)["y"], new.run(pictures(), 0)["y"])


def test_positions_are_dealt_in_turn() -> None:
    image = cimc.export_image(with_copies(convolution(), {"conv": 3}, **ERRORS))
    found = image.program(seed=2).run(pictures(), 0)["y"].reshape(5, 3, 20)
    alone = [only(image.program(seed=2), copy).run(pictures(), 0)["y"].reshape(5, 3, 20) for copy in range(3)]
    assert not np.array_equal(alone[0], alone[1])
    for position in range(20):
        np.testing.assert_array_equal(found[:, :, position], alone[position % 3][:, :, position])


def test_images_are_dealt_where_they_have_one_position() -> None:
    image = cimc.export_image(with_copies(network(), {"second": 2}, **ERRORS))
    found = image.program(seed=2).run(inputs(), 3)["y"]
    alone = []
    for copy in range(2):
        die = image.program(seed=2)
        crossbar = die.crossbars["second"]
        crossbar.hold([crossbar.held[copy]])
        alone.append(die.run(inputs(), 3)["y"])
    for number in range(40):
        np.testing.assert_array_equal(found[number], alone[(number + 3) % 2][number])


@pytest.mark.parametrize(("model", "layer", "x"), [(convolution(), "conv", pictures(6)), (network(), "first", inputs(images=6))])
def test_noise_does_not_depend_on_the_batch_split(model: onnx.ModelProto, layer: str, x: dict[str, np.ndarray]) -> None:
    image = cimc.export_image(with_copies(model, {layer: 4}, device__read_sigma_us=1.0, **ERRORS))
    die = image.program(seed=4)
    whole = die.run(x, 0)["y"]
    parts = [die.run({"x": x["x"][a:b]}, a)["y"] for a, b in ((0, 1), (1, 4), (4, 6))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(die.run(x, 6)["y"], whole)


def test_copies_draw_noise_of_their_own() -> None:
    quiet = {"device__read_sigma_us": 1.6, "weights__rounded": False, "adc__bits": 16}
    die = cimc.export_image(with_copies(network(8, 6, 64), {"second": 2}, **quiet)).program(error_free=True)
    x = {"x": np.repeat(np.random.default_rng(0).random((1, 8), np.float32), 200, 0)}
    y = die.run(x, 0)["y"]
    noise = y - y.mean(axis=0)
    one, other = noise[0::2].ravel(), noise[1::2].ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(one.size)


def test_every_copy_is_written_and_reported() -> None:
    image = cimc.export_image(with_copies(network(), {"first": 3}, device__stuck_low_rate=0.05, **ERRORS))
    die = image.program(seed=1)
    report = die.programming
    first = report.layers["first"]
    assert (len(first.all), len(report.layers["second"].all)) == (3, 1)
    held = [devices.g_us for devices in die.crossbars["first"].held]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        errors = [(held[k] - image.goals(0, k).g_us).ravel() for k in (a, b)]
        assert abs(np.corrcoef(*errors)[0, 1]) < 5 / np.sqrt(held[0].size)
    said = report.to_dict()["layers"]["first"]
    assert (said["copies"], said["cells"]) == (3, 3 * held[0].size)
    assert said["devices"] == 3 * first.writes.devices
    assert report.writes.devices == said["devices"] + report.layers["second"].writes.devices
    assert report.arrays()["first/copy 2/readback_us"].shape == held[0].shape
    # Another copy does not change what the first is: the same die, written without copies.
    alone = cimc.export_image(with_copies(network(), {}, device__stuck_low_rate=0.05, **ERRORS)).program(seed=1)
    np.testing.assert_array_equal(alone.conductances("first"), held[0])


def test_an_image_keeps_its_copies_and_the_program_in_it(tmp_path: Path) -> None:
    program = with_copies(network(), {"first": 3})
    image = cimc.export_image(program)
    assert image.copies(0) == 3
    np.testing.assert_array_equal(image.compiled.tensors["blocks/first"], program.tensors["blocks/first"])
    for copy in range(3):
        np.testing.assert_array_equal(image.goals(0, copy).g_us, image.goals(0).g_us)


def test_another_chip_and_a_faulty_die_keep_the_copies() -> None:
    program = with_copies(network(), {"first": 3})
    other = cimc.export_image(program, "isaac")
    assert [other.copies(k) for k in range(2)] == [3, 1]
    around = cimc.export_image(program, fault_map=FaultMap.of(rows=[[0, 0, 3]]))
    assert around.copies(0) == 3
    fewer = cimc.export_image(program, copies={"second": 2})
    assert [fewer.copies(k) for k in range(2)] == [1, 2]
    np.testing.assert_array_equal(fewer.goals(0).g_us, cimc.export_image(program).goals(0).g_us)
    assert [cimc.export_image(program, "isaac", copies={}).copies(k) for k in range(2)] == [1, 1]
    with pytest.raises(cimc.CimcError, match="no crossbar layer third"):
        cimc.export_image(program, copies={"third": 2})
