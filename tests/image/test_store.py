"""Images written to a file as they are made are those made in memory, and take no more memory than a part of a layer."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.errors import FitError, RunError
from cimc.image.store import created
from tests.image.models import exact, inputs, network


@pytest.mark.parametrize("changes", [{}, {"weights__representation": "offset", "array__unit_column": True}])
def test_the_file_holds_what_an_image_in_memory_holds(tmp_path: Path, changes: dict[str, Any]) -> None:
    program = cimc.compile(network(), exact(device__programming__sigma_us=1, **changes), copies={"second": 2})
    for given, source in ((program, "target"), (cimc.Chip(program, seed=2), "readback")):
        direct = cimc.export_image(given, source=source, path=tmp_path / "direct.cimg")
        memory = cimc.export_image(given, source=source)
        assert (tmp_path / "direct.cimg").read_bytes() == memory.data == direct.data
        memory.save(tmp_path / "saved.cimg")
        assert (tmp_path / "saved.cimg").read_bytes() == memory.data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.cimg", "saved.cimg"]


def test_an_image_in_use_survives_the_file_being_replaced(tmp_path: Path) -> None:
    program = cimc.compile(network(), exact())
    image = cimc.export_image(program, path=tmp_path / "m.cimg")
    expected = image.program(error_free=True).run(inputs(), 0)["y"]
    cimc.export_image(cimc.compile(network(seed=9), exact()), path=tmp_path / "m.cimg")
    np.testing.assert_array_equal(image.program(error_free=True).run(inputs(), 0)["y"], expected)
    image.save(tmp_path / "m.cimg")
    assert cimc.load_image(tmp_path / "m.cimg").sha256 == image.sha256


def test_nothing_is_left_of_an_image_that_fails(tmp_path: Path) -> None:
    program = cimc.compile(network(), exact())
    (tmp_path / "m.cimg").write_bytes(b"before")
    with pytest.raises(FitError):
        cimc.export_image(program, "ideal", path=tmp_path / "m.cimg")
    with pytest.raises(RunError, match="cannot write"):
        cimc.export_image(program, path=tmp_path / "none" / "m.cimg")
    with pytest.raises(ZeroDivisionError), created(tmp_path / "m.cimg", 100):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["m.cimg"]
    assert (tmp_path / "m.cimg").read_bytes() == b"before"


def test_memory_is_that_of_a_layer_not_of_the_image(tmp_path: Path) -> None:
    width, layers = 512, 8
    names = ["x", *(f"a{k}" for k in range(layers))]
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.normal(size=(width, width)).astype(np.float32), f"w{k}") for k in range(layers)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[k], f"w{k}"], [names[k + 1]], f"mm{k}") for k in range(layers)],
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["N", width])],
        weights,
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    cimc.compile(model, exact(array__rows=128, array__columns=128)).save(tmp_path / "m.cim")
    program = cimc.load(tmp_path / "m.cim")
    cimc.export_image(program)  # what is imported and cached at first use
    tracemalloc.start()
    try:
        cimc.export_image(program, path=tmp_path / "m.cimg")
        made = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        image = cimc.load_image(tmp_path / "m.cimg")
        image.cell(0, 0, 0, 0)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights_of_a_layer = width * width
    assert len(image.content) > 2 * 16 * layers * weights_of_a_layer
    assert made < 24 * weights_of_a_layer + (4 << 20)  # a part of a layer as cells, all reads and bit lines in float64
    assert read < 8 << 20
