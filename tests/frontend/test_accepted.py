"""Models that load: their outputs under ONNX Runtime are those of the model as given."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from cimc.frontend.load import load
from cimc.ir import onnx_io
from tests.frontend import models

X = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)


@pytest.mark.parametrize("form", ["path", "text path", "bytes", "ModelProto", "onnx_ir"])
def test_every_form_of_a_model(form: str, tmp_path: Path) -> None:
    proto = models.linear()
    path = tmp_path / "linear.onnx"
    path.write_bytes(proto.SerializeToString())
    sources = {
        "path": path,
        "text path": str(path),
        "bytes": path.read_bytes(),
        "ModelProto": proto,
        "onnx_ir": ir.from_proto(proto),
    }
    models.assert_same(models.run_loaded(load(sources[form]), {"x": X}), models.run(proto, {"x": X}))


def test_the_source_in_memory_stays_as_it_was() -> None:
    proto = models.linear()
    before = proto.SerializeToString(deterministic=True)
    load(proto)
    assert proto.SerializeToString(deterministic=True) == before
    model = ir.from_proto(proto)
    load(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == ir.to_proto(ir.from_proto(proto)).SerializeToString(
        deterministic=True
    )


def test_name_and_hash_are_the_files(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(models.linear().SerializeToString())
    loaded = load(path)
    assert (loaded.name, loaded.sha256) == ("net.onnx", hashlib.sha256(path.read_bytes()).hexdigest())


def test_external_data_is_memory_mapped_and_hashed(tmp_path: Path) -> None:
    path = models.external(tmp_path, "sub/w.bin", offset="512")
    (tmp_path / "sub").mkdir()
    data = b"\0" * 512 + models.WEIGHT.tobytes()
    (tmp_path / "sub/w.bin").write_bytes(data)
    loaded = load(path)
    tensor = loaded.model.graph.initializers["w"].const_value
    assert tensor is not None
    assert isinstance(tensor.numpy(), np.memmap)
    assert not tensor.numpy().flags.writeable
    assert loaded.sha256 == hashlib.sha256(path.read_bytes() + data).hexdigest()
    models.assert_same(models.run_loaded(loaded, {"x": X}), models.run(models.linear(), {"x": X}))


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    path = models.external(tmp_path)
    (tmp_path / "blob").write_bytes(models.WEIGHT.tobytes())
    (tmp_path / "w.bin").symlink_to("blob")
    models.assert_same(models.run_loaded(load(path), {"x": X}), models.run(models.linear(), {"x": X}))


def test_an_external_model_held_in_memory(tmp_path: Path) -> None:
    path = models.external(tmp_path)
    (tmp_path / "w.bin").write_bytes(models.WEIGHT.tobytes())
    models.assert_same(models.run_loaded(load(ir.load(path)), {"x": X}), models.run(models.linear(), {"x": X}))


def test_external_constant_of_a_node(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(models.WEIGHT, "value"))
    proto = models.linear()
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, constant)
    tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(models.WEIGHT.tobytes())
    models.assert_same(models.run_loaded(load(path), {"x": X}), models.run(models.linear(), {"x": X}))


FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[n, 8] x) => (float[n, 8] y) { a = local.twice (x)  b = local.twice (a)  y = Relu (b) }
<domain: "local", opset_import: ["" : 17, "local" : 1]> twice (u) => (v) { v = local.scaled <factor = 2.0> (u) }
<domain: "local", opset_import: ["" : 17]> scaled <factor> (u) => (v)
{ f = Constant <value_float: float = @factor> () v = Mul (u, f) }
"""
OLDER_FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[n, 8] x) => (float[n, 8] y) { a = local.squared (x)  y = Relu (a) }
<domain: "local", opset_import: ["" : 14]> squared (u) => (v) { v = Mul (u, u) }
"""


@pytest.mark.parametrize("source", [FUNCTIONS, OLDER_FUNCTION], ids=["nested", "older opset"])
def test_functions_are_inlined(source: str) -> None:
    proto = models.text(source)
    loaded = load(proto)
    assert not loaded.model.functions
    assert {node.domain for node in loaded.model.graph} == {""}
    models.assert_same(models.run_loaded(loaded, {"x": X}), models.run(proto, {"x": X}))


@pytest.mark.parametrize("condition", [True, False])
def test_control_flow(condition: bool) -> None:
    infos = [helper.make_tensor_value_info("c0", onnx.TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, ["n"])]
    branches = {f"{k}_branch": models.node_graph(k, f"{k}_y", value=v) for k, v in (("then", 1.0), ("else", 2.0))}
    graph = helper.make_graph(
        [helper.make_node("If", ["c0"], ["y"], **branches)], "branch", infos, [helper.make_tensor_value_info("y", 1, ["m"])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"c0": np.array(condition), "x": np.arange(4, dtype=np.float32)}
    loaded = load(proto)
    names = [node.name for node in loaded.model.graph.all_nodes()]
    assert sorted(names) == ["Add_0", "Add_1", "If_0"]
    models.assert_same(models.run_loaded(loaded, feeds), models.run(proto, feeds))


OLD_OPSET = """
<ir_version: 3, opset_import: ["" : 6]>
old (float[1, 1, 6, 6] x, float[8, 1, 4, 4] w, float[8] b) => (float[1, 8, 1, 1] y)
{ h = Conv (x, w, b) r = Relu (h) p = MaxPool <kernel_shape = [3, 3]> (r) y = Softmax (p) }"""
STRINGS = """
<ir_version: 8, opset_import: ["" : 17]>
words (string[n] x) => (seq(string[m]) y, string[n] z) { y = SequenceConstruct (x, x)  z = Identity (x) }"""
OPTIONAL = """
<ir_version: 8, opset_import: ["" : 18]>
maybe (float[n, 8] x) => (bool full, float[n, 8] y)
{ o = Optional (x) full = OptionalHasElement (o) y = OptionalGetElement (o) }"""
QDQ = """
<ir_version: 8, opset_import: ["" : 17]>
qdq (float[n, 8] x) => (float[n, 8] y)
<float s = {0.05}, int8 z = {3}> { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"""


def test_opset_6_stays_opset_6() -> None:
    kernel = numpy_helper.from_array(models.WEIGHT.reshape(8, 1, 4, 4), "w")
    proto = models.text(OLD_OPSET, kernel, numpy_helper.from_array(np.linspace(1, 2, 8, dtype=np.float32), "b"))
    loaded = load(proto)
    assert loaded.model.opset_imports[""] == 6
    image = np.random.default_rng(2).normal(size=(1, 1, 6, 6)).astype(np.float32)
    models.assert_same(models.run_loaded(loaded, {"x": image}), models.run(proto, {"x": image}))


@pytest.mark.parametrize(
    ("source", "x"),
    [(STRINGS, np.array(["a", "é"], object)), (OPTIONAL, X), (QDQ, X)],
    ids=["strings and sequences", "optional", "qdq"],
)
def test_other_types(source: str, x: np.ndarray) -> None:
    proto = models.text(source)
    models.assert_same(models.run_loaded(load(proto), {"x": x}), models.run(proto, {"x": x}))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4])
def test_narrow_weights_keep_their_bits(dtype: type, tmp_path: Path) -> None:
    weight = (models.WEIGHT * 3).repeat(4, axis=1).astype(dtype)
    source = '<ir_version: 10, opset_import: ["" : 21]> narrow (float[n, 8] x) => (float[n, 64] y) {{ {} y = MatMul (x, f) }}'
    if dtype is ml_dtypes.int4:
        scale = numpy_helper.from_array(np.float32(0.5), "s")
        proto = models.text(source.format("f = DequantizeLinear (w, s)"), numpy_helper.from_array(weight, "w"), scale)
    else:
        proto = models.text(source.format("f = Cast <to = 1> (w)"), numpy_helper.from_array(weight, "w"))
    embedded, outside = tmp_path / "embedded.onnx", tmp_path / "outside.onnx"
    onnx.save(proto, embedded)
    want = models.run(proto, {"x": X})
    onnx.save(proto, outside, save_as_external_data=True, location="w.bin", size_threshold=0)
    for path in (embedded, outside):
        loaded = load(path)
        tensor = loaded.model.graph.initializers["w"].const_value
        assert tensor is not None
        assert tensor.tobytes() == ir.Tensor(weight).tobytes()
        models.assert_same(models.run_loaded(loaded, {"x": X}), want)


def test_sparse_initializers_become_dense() -> None:
    proto = models.linear()
    dense = np.where(np.abs(models.WEIGHT) > 1, models.WEIGHT, 0)
    indices = np.argwhere(dense)
    values = numpy_helper.from_array(dense[tuple(indices.T)], "w")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), dense.shape))
    del proto.graph.initializer[:]
    models.assert_same(models.run_loaded(load(proto), {"x": X}), [np.maximum(X @ dense, 0)])


def test_names_of_nodes_are_kept_and_made_unique() -> None:
    proto = models.text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) '
        "{ a = Relu (x) b = Relu (a) c = Neg (b) d = Neg (c) y = Relu (d) }"
    )
    for node, name in zip(proto.graph.node, ["Relu_1", "", "mine", "mine", ""], strict=True):
        node.name = name
    assert [node.name for node in load(proto).model.graph] == ["Relu_1", "Relu_0", "mine", "mine_0", "Relu_2"]


def test_a_map_as_output() -> None:
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(8, helper.make_tensor_type_proto(1, [])))
    graph = helper.make_graph(
        [zipped], "zip", [helper.make_tensor_value_info("x", 1, ["n", 2])], [helper.make_value_info("y", kind)]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    made = onnx_io.session(*onnx_io.split(load(proto).model))
    assert made.run(None, {"x": X[:2, :2]}) == models.run(proto, {"x": X[:2, :2]})


MEASURE = """
import resource, sys
from cimc.frontend.load import load
import onnx.inliner, onnxruntime
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load(sys.argv[1])
before = peak()
loaded = load(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.parametrize(("outside", "copies"), [(False, 1.5), (True, 0.5)])
def test_peak_memory_in_copies_of_the_weights(outside: bool, copies: float, tmp_path: Path) -> None:
    weight = np.ones((8, 2_000_000), np.float32)
    proto = models.text(
        '<ir_version: 8, opset_import: ["" : 17]> big (float[n, 8] x) => (float[n, 2000000] y) { y = MatMul(x, w) }',
        numpy_helper.from_array(weight, "w"),
    )
    small, big = tmp_path / "small.onnx", tmp_path / "big.onnx"
    onnx.save(models.linear(), small)
    onnx.save(proto, big, save_as_external_data=outside, location="w.bin")
    command = [sys.executable, "-c", MEASURE, str(small), str(big)]
    peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert peak < copies * weight.nbytes


def test_a_dimension_of_minus_one_is_unknown() -> None:
    proto = models.linear()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    loaded = load(proto).model
    shape = loaded.graph.inputs[0].shape
    assert shape is not None
    assert not isinstance(shape[0], int)
    models.assert_same(models.run_loaded(load(proto), {"x": X}), models.run(models.linear(), {"x": X}))
