"""A rewrite that does not apply says why: in the log, and in the placement report where it concerns a node of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

import cimc
from cimc.passes.training.pools import pool_first
from tests.cli.conftest import cimc as command

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def _model(text: str, **arrays: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f"{HEAD} {text}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in arrays.items())
    return model


def _whys(model: onnx.ModelProto) -> dict[str, str]:
    return {row["name"]: row["why"] for row in cimc.compile(model, "ideal").placement()}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[fc] p = MatMul (x, w) [add] y = Add (p, b) z = Relu (p)", "other nodes read the product too"),
        ("[fc] p = MatMul (x, w) [add] y = Add (p, m) z = Relu (x)", "constant of shape [1, 3] is not one number a channel"),
        ("[fc] z = MatMul (x, w) [add] y = Add (z, b)", "an output of the model"),
    ],
)
def test_what_is_not_merged_into_a_product_says_why(body: str, said: str) -> None:
    model = _model(
        f"g (float[n,4] x) => (float[n,3] y, float z) {{ {body} }}", w=np.ones((4, 3)), b=np.ones(3), m=np.ones((1, 3))
    )
    assert said in _whys(model)["add"]
    assert "not merged into the digital scale and offset of fc" in _whys(model)["add"]


def test_what_is_merged_has_no_reason_against_it() -> None:
    model = _model(
        "g (float[n,4] x) => (float[n,3] y) { [fc] p = MatMul (x, w) [add] y = Add (p, b) }", w=np.ones((4, 3)), b=np.ones(3)
    )
    assert _whys(model)["add"] == "merged into the digital scale and offset of fc"


def test_a_constant_that_stays_says_why(caplog: pytest.LogCaptureFixture) -> None:
    model = _model("g (float[n,4] x) => (float y, float[4,3] s) { [sum] s = Add (w, w) y = MatMul (x, w) }", w=np.ones((4, 3)))
    with caplog.at_level("INFO", "cimc.passes"):
        assert _whys(model)["sum"] == "constant, but computed at run time: its result is an output of the model"
    assert "node 'sum' (Add): not folded: its result is an output of the model" in caplog.messages


def test_a_pool_that_stays_says_why(caplog: pytest.LogCaptureFixture) -> None:
    model = ir.from_proto(_model("g (float[1,1,4,4] x) => (float y) { s = Neg (x) [pool] y = MaxPool <kernel_shape=[2,2]> (s) }"))
    with caplog.at_level("INFO", "cimc.passes"):
        pool_first(model.graph)
    (line,) = caplog.messages
    assert line.startswith("node 'pool' (MaxPool): not moved")
    assert "(Neg) does not grow with its input" in line


def test_verbose_shows_the_reasons(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_model("g (float[n,4] x) => (float y) { p = MatMul (x, w) [act] y = Relu (p) }", w=np.ones((4, 3))), path)
    quiet = command("compile", path, "-o", tmp_path / "m.cim")
    told = command("compile", path, "-o", tmp_path / "m.cim", "-v")
    line = "node 'act' (Relu): digital: no product with a constant weight"
    assert line not in quiet.err
    assert line in told.err
    assert told.out == quiet.out
