"""Models that do not load: a ModelError that says what, where and how to help it; nothing else ever escapes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from cimc.errors import ModelError
from cimc.frontend.load import load
from tests.frontend import models


def refused(source: Any, *words: str) -> ModelError:
    """The error that `load` raises, which must hold these words and a way out."""
    with pytest.raises(ModelError) as caught:
        load(source)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert caught.value.where
    assert caught.value.fix
    assert "\n" not in caught.value.what
    return caught.value


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"# not a model\nbut a note to a friend\n", "not an ONNX model"),
        (np.random.default_rng(0).bytes(4096), "not an ONNX model"),
        (models.linear().SerializeToString()[:400], "truncated"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
        (b"\x80\x04\x95pickle", "not an ONNX model"),
    ],
    ids=["empty", "text", "random", "truncated", "no graph", "pickle"],
)
def test_not_an_onnx_file(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(path, word, "net.onnx")


def test_no_file_or_no_regular_one(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "none.onnx", "No such file")
    refused(tmp_path, "regular file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "regular file")
    with pytest.raises(ModelError, match="cannot be a int"):
        load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "", "w\0.bin", "link.bin", "folder/secret.bin", "."]
)
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(models.WEIGHT.tobytes())
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "folder").symlink_to(tmp_path)
    refused(models.external(home, location), "'w'", "linear.onnx", "beside the model")


@pytest.mark.parametrize(
    ("offset", "length", "held", "word"),
    [
        ("0", "512", None, "No such file"),
        ("0", "512", 511, "holds 511"),
        ("1", "512", 512, "from byte 1"),
        ("0", "508", 512, "names 508"),
        ("99999999999999", "512", 512, "from byte 99999999999999"),
        ("-4", "512", 512, "no number"),
        ("0", "many", 512, "no number"),
    ],
)
def test_external_data_missing_or_too_short(offset: str, length: str, held: int | None, word: str, tmp_path: Path) -> None:
    if held is not None:
        (tmp_path / "w.bin").write_bytes(b"\0" * held)
    refused(models.external(tmp_path, offset=offset, length=length), "'w'", word)


def test_external_data_needs_a_folder(tmp_path: Path) -> None:
    refused(models.external(tmp_path).read_bytes(), "'w'", "path")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dims": [8, 17]}, "544 bytes"),
        ({"dims": [1 << 40, 1 << 40]}, "needs 4835703278458516698824704 bytes"),
        ({"dims": [-8, -16]}, "[-8, -16]"),
        ({"data_type": onnx.TensorProto.DOUBLE}, "1024 bytes"),
        ({"data_type": 99}, "element type 99"),
        ({"data_type": onnx.TensorProto.STRING}, "element type 8"),
        ({"name": ""}, "none"),
    ],
)
def test_shape_against_bytes(change: dict[str, Any], word: str) -> None:
    refused(models.linear(**change), word)


def test_shape_against_values() -> None:
    proto = models.linear()
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", onnx.TensorProto.FLOAT, [8, 16], models.WEIGHT.ravel()))
    proto.graph.initializer[0].dims[0] = 1 << 50
    refused(proto, "'w'", "needs 18014398509481984 values, the file holds 128")


def test_huge_sparse_shape() -> None:
    proto = models.linear()
    values, index = numpy_helper.from_array(np.ones(1, np.float32), "w"), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [1 << 40]))
    del proto.graph.initializer[:]
    refused(proto, "sparse", str(1 << 40))


def test_one_initializer_name_twice() -> None:
    proto = models.linear()
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, "'w'", "more than one")


def test_cycle_names_its_nodes() -> None:
    proto = models.text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) '
        "{ a = Add (x, c) b = Neg (a) c = Abs (b) y = Neg (x) }"
    )
    for node, name in zip(proto.graph.node, ["add", "neg", "abs", "out"], strict=True):
        node.name = name
    error = refused(proto, "cycle")
    assert {"add", "neg", "abs"} <= set(error.what.replace(":", " ").split())
    assert "out" not in error.what


def test_cycle_through_a_subgraph() -> None:
    branches = {f"{k}_branch": models.node_graph(k, f"{k}_y", value=1.0) for k in ("then", "else")}
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c0"], ["b"], "branch", **branches),
            helper.make_node("Neg", ["b"], ["x"], "late"),
        ],
        "cycle",
        [helper.make_tensor_value_info("c0", 9, [])],
        [helper.make_tensor_value_info("b", 1, ["m"])],
    )
    refused(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "cycle", "branch -> late")


def test_a_fault_that_the_normal_form_would_mend() -> None:
    proto = models.text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x, bool c) => (float[n] y) '
        "{ y = If (c) <then_branch = t () => (float[n] p) { p = Neg (x) }, else_branch = e () => (float[n] q) { q = Abs (x) }> }"
    )
    load(proto)
    proto.graph.node[0].attribute[0].g.output[0].type.tensor_type.elem_type = 0
    with pytest.raises(Exception, match="data type 0"):
        models.run(proto, {"x": np.ones(2, np.float32), "c": np.array(True)})
    refused(proto)


NODE = '<ir_version: 8, opset_import: ["" : {opset}{more}]> g (float[n, 8] x) => (float[n, 8] y) {{ y = {call} }}'


@pytest.mark.parametrize(
    ("call", "opset", "more", "words"),
    [
        ("Frobnicate (x)", 17, "", ["onnx.checker", "Frobnicate"]),
        ("Relu (x, x)", 17, "", ["onnx.checker", "Relu"]),
        ("Relu <slope = 1.0> (x)", 17, "", ["onnx.checker", "slope"]),
        ("Relu (nothing)", 17, "", ["onnx.checker", "nothing"]),
        ("mine.Frobnicate (x)", 17, ', "mine" : 1', ["ONNX Runtime", "Frobnicate"]),
        ("MatMul (x, x)", 400, "", ["opset"]),
        ("Conv (x, x)", 17, "", ["ONNX Runtime"]),
    ],
)
def test_what_checker_or_runtime_refuse(call: str, opset: int, more: str, words: list[str]) -> None:
    proto = models.text(NODE.format(call=call, opset=opset, more=more))
    proto.graph.node[0].name = "culprit"
    refused(proto, *words)


@pytest.mark.parametrize("call", ["Frobnicate (x)", "mine.Frobnicate (x)", "Relu (x, x)"])
def test_the_node_is_named(call: str) -> None:
    proto = models.text(NODE.format(call=call, opset=17, more=', "mine" : 1'))
    proto.graph.node[0].name = "culprit"
    error = refused(proto)
    assert error.where
    assert "node culprit" in error.where, str(error)


def test_functions_that_call_each_other() -> None:
    source = """
    <ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[n] x) => (float[n] y) { y = local.f (x) }
    <domain: "local", opset_import: ["" : 17, "local" : 1]> f (u) => (v) { v = local.h (u) }
    <domain: "local", opset_import: ["" : 17, "local" : 1]> h (u) => (v) { v = local.f (u) }"""
    refused(models.text(source))


BLOB = models.linear().SerializeToString()


def loads_or_refuses(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        load(data)


@given(st.integers(0, len(BLOB) - 1))
@settings(max_examples=150, deadline=None)
def test_truncated_anywhere(end: int) -> None:
    loads_or_refuses(BLOB[:end])


@given(st.lists(st.tuples(st.integers(0, len(BLOB) - 1), st.integers(0, 7)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
@example([(61, 7)])
def test_flipped_bits(flips: list[tuple[int, int]]) -> None:
    data = bytearray(BLOB)
    for at, bit in flips:
        data[at] ^= 1 << bit
    loads_or_refuses(bytes(data))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes(data: bytes) -> None:
    loads_or_refuses(data)
