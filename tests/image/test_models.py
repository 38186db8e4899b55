"""Layers of every kind go into an image, to a die, and to another chip, under their own names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cimc
from tests.image.models import exact

RANDOM = np.random.default_rng(0)


def model(
    nodes: list[Any], shape: list[Any], weights: dict[str, tuple[int, ...]], out: list[Any], dtype: Any = np.float32
) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out)],
        [numpy_helper.from_array(np.asarray(RANDOM.normal(size=s)).astype(dtype), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


node = helper.make_node
MODELS = {
    "transposed": model(
        [node("ConvTranspose", ["x", "w", "b"], ["y"], "t", strides=[2, 2])],
        ["N", 3, 5, 5],
        {"w": (3, 4, 3, 3), "b": (4,)},
        ["N", 4, 11, 11],
    ),
    "groups": model([node("Conv", ["x", "w"], ["y"], "c", group=2)], ["N", 4, 5, 5], {"w": (6, 2, 3, 3)}, ["N", 6, 3, 3]),
    "left": model([node("MatMul", ["w", "x"], ["y"], "m")], ["N", 7, 3], {"w": (5, 7)}, ["N", 5, 3]),
    "double": model([node("MatMul", ["x", "w"], ["y"], "m")], ["N", 20], {"w": (20, 5)}, ["N", 5], np.float64),
    "half": model([node("MatMul", ["x", "w"], ["y"], "m")], ["N", 20], {"w": (20, 5)}, ["N", 5], np.float16),
    "also digital": model(
        [node("MatMul", ["x", "w"], ["a"], "m"), node("ReduceSum", ["w"], ["s"], "s"), node("Add", ["a", "s"], ["y"], "add")],
        ["N", 7],
        {"w": (7, 5)},
        ["N", 5],
    ),
    "twice": model(
        [node("MatMul", ["x", "w"], ["a"], "m"), node("Relu", ["a"], ["r"], "r"), node("MatMul", ["r", "w"], ["y"], "n")],
        ["N", 7],
        {"w": (7, 7)},
        ["N", 7],
    ),
    "normalised": model(
        [node("Conv", ["x", "w"], ["c"], "c"), node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], "bn")],
        ["N", 2, 5, 5],
        {"w": (6, 2, 3, 3), "g": (6,), "b": (6,), "m": (6,), "v": (6,)},
        ["N", 6, 3, 3],
    ),
    "digital alone": model([node("Relu", ["x"], ["y"], "r")], ["N", 7], {}, ["N", 7]),
}
for initializer in MODELS["normalised"].graph.initializer:
    if initializer.name == "v":
        initializer.CopyFrom(numpy_helper.from_array(np.linspace(0.5, 2, 6, dtype=np.float32), "v"))

SLICED = exact(
    device__levels=4,
    device__g_min_us=0.1,
    weights__bits=8,
    weights__cells=4,
    weights__representation="offset",
    array__unit_column=True,
    array__columns=24,
    adc__conversion="per_bit",
    adc__flipped=True,
)
FINE = exact(device__levels=256, dac__bits=12, adc__bits=16, array__rows=11)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", [exact(), SLICED, exact(dac__bits=None, adc__bits=None)], ids=["pair", "sliced", "analog"])
def test_an_image_computes_what_its_chip_computes(name: str, target: Any) -> None:
    given = MODELS[name].graph.input[0].type.tensor_type
    shape = [3, *(d.dim_value for d in given.shape.dim[1:])]
    x = {"x": np.random.default_rng(1).random(shape).astype(helper.tensor_dtype_to_np_dtype(given.elem_type))}
    program = cimc.compile(
        MODELS[name], target, calibration={"x": np.random.default_rng(2).random((64, *shape[1:])).astype(x["x"].dtype)}
    )
    chip = cimc.Chip(program)
    expected = chip.run(x, 0)["y"]
    for source in ("target", "readback"):
        found = cimc.export_image(chip, source=source).program(error_free=True).run(x, 0)["y"]
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    other = cimc.export_image(chip, FINE)
    assert [(layer.name, layer.weight.tensor) for layer in other.layers] == [
        (layer.name, layer.weight.tensor) for layer in program.layers
    ]
    there = other.program(error_free=True).run(x, 0)["y"]
    assert np.corrcoef(there.ravel().astype(float), expected.ravel().astype(float))[0, 1] > 0.98
    again = cimc.export_image(other.program(error_free=True), exact(array__rows=9))
    assert [layer.name for layer in again.layers] == [layer.name for layer in program.layers]


def test_copies_of_a_layer_hold_the_same_cells() -> None:
    program = cimc.compile(MODELS["groups"], exact(array__columns=64, array__rows=64), copies={"c": 3})
    image = cimc.export_image(program)
    assert image.sections["LAYR"]["copies"].tolist() == [3]
    first, *others = [
        [image.grid(int(s["tile_index"]))[np.ix_(rows, columns)] for s, rows, columns in image.segments(0, copy)]
        for copy in range(3)
    ]
    for other in others:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, other, strict=True))
    np.testing.assert_array_equal(image.compiled.tensors["blocks/c"], program.tensors["blocks/c"])
