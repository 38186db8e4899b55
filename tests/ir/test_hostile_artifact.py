"""A file whose hashes are right and whose contents are not: refused before anything of it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper

import cimc
from cimc.errors import ArtifactError, VerifyError
from cimc.image.container import pack
from cimc.image.reader import read_image
from cimc.runtime.output_fit import OutputFit
from tests.fuzz.cim import sealed
from tests.fuzz.models import programs
from tests.fuzz.safetensors_file import Arrays, opened

Change = Callable[[Any, Arrays], None]


def _set(*path: Any) -> Change:
    """Give a field of the program another value; the last item of ``path`` is the value."""

    def change(program: Any, _: Arrays) -> None:
        *keys, name, value = path
        for key in keys:
            program = program[key]
        program[name] = value

    return change


def _array(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(_: Any, arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return change


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.reshape(-1)[-1] = value
        return changed

    return make


def _moved(old: str, new: str) -> Change:
    """Give an array another name."""

    def change(_: Any, arrays: Arrays) -> None:
        arrays[new] = arrays.pop(old)

    return change


HOSTILE: dict[str, Change] = {
    "cuts beyond the matrix": _set("layers", 0, "column_cuts", [0, 4, 100_000]),
    "cuts that fall": _set("layers", 0, "row_cuts", [0, 12, 6, 18]),
    "a negative gain": _set("layers", 0, "coding", "gain", -1.0),
    "a range that is no number": _set("layers", 0, "adc_range_ua", float("nan")),
    "a stride of 0": _set("steps", 0, "geometry", "strides", [0, 1]),
    "pads of one side": _set("steps", 0, "geometry", "pads", [1, 0]),
    "a step of no layer": _set("steps", 0, "layer", "absent"),
    "a value that nothing makes": _set("steps", 0, "input", "absent"),
    "a value that is an initializer": _set("steps", 2, "input", "w1"),
    "an input of no dtype": _set("inputs", 0, "dtype", "float31"),
    "a weight that is no number": _array("initializer/w1", _with(np.nan)),
    "weights of whole numbers": _array("initializer/w1", lambda a: a.astype(np.int32)),
    "weights of another shape": _array("initializer/w1", lambda a: a[:-1]),
    "an infinite scale of weights": _array("weight_max/Conv_0", _with(np.inf)),
    "offsets of fewer channels": _array("offset/Conv_0", lambda a: a[:-1]),
    "a negative conductance": _array("state/Conv_0/g_us", _with(-1)),
    "conductances of fewer devices": _array("state/Conv_0/g_us", lambda a: a[:, :-1]),
    "a negative seed": _array("state/seed", lambda a: -1 - a),
    "a fitted scale of fewer channels": _array("state/Conv_0/fit_scale", lambda a: a[:-1]),
    "a fitted scale of other numbers": _array("state/Conv_0/fit_scale", lambda a: a.astype(np.float32)),
    "a fitted offset that is no number": _array("state/Conv_0/fit_offset", _with(np.nan)),
    "a fitted scale without an offset": _moved("state/Conv_0/fit_offset", "state/draws/fit_offset"),
    "a fit of no step": _moved("state/Conv_0/fit_scale", "state/fit_scale"),
    "a fit without a chip": _moved("state/seed", "state/time_s"),
    "a block off its array": _array("blocks/Conv_0", lambda a: a + np.int32(1)),
    "a block table of other numbers": _array("blocks/Conv_0", lambda a: a.astype(np.int64)),
    "a segment that is no model": _array("segment/digital1", lambda a: np.full_like(a, 0xFF)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("hostile") / "m.cim"
    chip = cimc.Chip(programs()["conv"])
    channels = len(chip.program.tensors["offset/Conv_0"])
    chip.fits = {"Conv_0": OutputFit(np.full(channels, 1.1), np.zeros(channels))}
    chip.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("what", HOSTILE)
def test_right_hashes_do_not_excuse_contents_that_break_a_rule(what: str, saved: bytes, tmp_path: Path) -> None:
    manifest, arrays = opened(saved)
    program = json.loads(manifest["program"])
    path = tmp_path / "m.cim"
    path.write_bytes(sealed(manifest, program, arrays))
    cimc.load(path)  # unchanged, it is read
    HOSTILE[what](program, arrays)
    path.write_bytes(sealed(manifest, program, arrays))
    with pytest.raises(ArtifactError, match="does not hold together"):
        cimc.load(path)


def _with_secret(location: str, in_body: bool) -> onnx.ModelProto:
    """A segment that reads a constant from a file, directly or in the body of an If."""
    constant = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    constant.external_data.add(key="location", value=location)
    node = helper.make_node("Constant", [], ["k"], value=constant)
    nodes = [node, helper.make_node("Add", ["a", "k"], ["y"])]
    if in_body:
        add = [node, helper.make_node("Add", ["a", "k"], ["r"])]
        branch = helper.make_graph(add, "body", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)])
        yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        nodes = [yes, helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a", "y")]
    graph = helper.make_graph(nodes, "segment", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("in_body", [False, True])
def test_a_segment_that_reads_a_file_is_refused(
    in_body: bool, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.arange(3, dtype=np.float32).tofile(tmp_path / "secret.bin")
    monkeypatch.chdir(tmp_path)
    manifest, arrays = opened(saved)
    program = json.loads(manifest["program"])
    last = next(step for step in program["steps"] if step["kind"] == "digital")
    segment = _with_secret("secret.bin", in_body)
    segment.graph.input[0].name, segment.graph.output[0].name = last["inputs"][0], last["outputs"][0]
    arrays[f"segment/{last['name']}"] = np.frombuffer(segment.SerializeToString(), np.uint8)
    path = tmp_path / "m.cim"
    path.write_bytes(sealed(manifest, program, arrays))
    with pytest.raises(ArtifactError, match="lie in a file"):
        cimc.load(path)


@pytest.mark.parametrize("in_body", [False, True])
def test_an_image_whose_segment_reads_a_file_is_refused(in_body: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.arange(3, dtype=np.float32).tofile(tmp_path / "secret.bin")
    monkeypatch.chdir(tmp_path)
    image = cimc.export_image(programs()["conv"])
    sections = dict(image.sections)
    last = next(step for step in image.outline.steps if step.kind == "digital")
    segment = _with_secret("secret.bin", in_body)
    segment.graph.input[0].name, segment.graph.output[0].name = last.inputs[0], last.outputs[0]
    tensors = safetensors.numpy.load(sections["TENS"].tobytes())
    assert f"segment/{last.name}" in tensors
    for change in (False, True):
        if change:
            tensors[f"segment/{last.name}"] = np.frombuffer(segment.SerializeToString(), np.uint8)
        sections["TENS"] = np.frombuffer(safetensors.numpy.save(tensors), np.uint8)
        made = read_image(pack(sections))
        if not change:
            made.program()
            continue
        with pytest.raises(ArtifactError, match="lie in a file"):
            made.program()


def test_a_program_that_no_file_can_hold_is_not_written(tmp_path: Path) -> None:
    program = programs()["conv"]
    layer = program.layers[0].model_copy(update={"adc_range_ua": float("inf")})
    with pytest.raises(VerifyError, match="adc_range_ua"):
        program.model_copy(update={"layers": (layer, *program.layers[1:])}).save(tmp_path / "m.cim")
    assert not list(tmp_path.iterdir())
