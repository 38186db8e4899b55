"""Calibration: codings in closed form, sampled rows against ONNX Runtime, data that do not suit refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from cimc.errors import DataError
from cimc.ir.expand import expand
from cimc.ir.geometry import Conv
from cimc.ir.samples import Extent, rounded_up, row_vectors
from cimc.passes.base import Compilation
from cimc.passes.calibrate import Calibrate
from cimc.passes.manager import PassManager
from cimc.passes.select import Select
from cimc.targets.description import Adc, Array, Dac, Device, Input, Target
from cimc.targets.load import load_target
from tests.passes.graph_text import nodes

Arrays = dict[str, Any]


def _model(body: str, weights: Arrays, inputs: str = "float[n,4] x", opset: int = 17) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    return model


def _target(**parts: Any) -> Target:
    return Target(
        **{"name": "test", "device": Device(levels=16, read_sigma_us=0.01), "dac": Dac(bits=8), "adc": Adc(bits=8), **parts}
    )


def _calibrated(model: onnx.ModelProto, target: Target, data: Arrays | None = None) -> tuple[Compilation, dict[str, Arrays]]:
    """The state, and the coding of each Vmm by node name."""
    state = PassManager((Select(), Calibrate())).run(Compilation(ir.from_proto(model), target, calibration=data))
    codings = {
        str(node.name): {key: attribute.value for key, attribute in node.attributes.items() if key.startswith("input_")}
        for node in state.model.graph
        if node.domain == "cimc"
    }
    return state, codings


def _float(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


DENSE = "y = MatMul(x, w)"
W = {"w": _float((4, 3))}


def test_unstated_input_is_zero_to_one_and_says_so() -> None:
    state, codings = _calibrated(_model(DENSE, W), _target())
    (coding,) = codings.values()
    assert (coding["input_gain"], coding["input_signed"], coding["input_full_scale"]) == (255.0, 0, 1.0)
    assert state.model.graph.inputs[0].metadata_props["cimc.range"] == "0,1"
    assert any("between 0 and 1" in note and "input.range" in note for note in state.notes)
    assert state.calibration_basis == "synthetic input: uniform, 0 to 1, 32 images"


@pytest.mark.parametrize(("signed", "top"), [("two_phase", 255), ("offset", 127)])
def test_stated_range_is_the_full_scale(signed: str, top: int) -> None:
    state, codings = _calibrated(_model(DENSE, W), _target(dac=Dac(bits=8, signed=signed), input=Input(range=(-3.0, 2.0))))
    (coding,) = codings.values()
    assert (coding["input_signed"], coding["input_full_scale"]) == (1, 3.0)
    assert coding["input_gain"] == pytest.approx(top / 3, rel=1e-6)
    assert state.model.graph.inputs[0].metadata_props["cimc.range"] == "-3,2"


def test_calibration_gives_sign_and_scale() -> None:
    x = _float((50, 4))
    state, codings = _calibrated(
        _model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)", {**W, "v": _float((3, 2))}), _target(), {"x": x}
    )
    first, second = codings.values()
    assert (first["input_signed"], second["input_signed"]) == (1, 0)
    assert first["input_full_scale"] == pytest.approx(np.abs(x).max(), rel=1e-3)
    assert first["input_full_scale"] >= np.abs(x).max()
    assert second["input_full_scale"] == pytest.approx(np.maximum(x @ W["w"], 0).max(), rel=1e-3)
    assert "interval analysis" in second["input_basis"]
    assert "cimc.range" not in state.model.graph.inputs[0].metadata_props
    assert state.calibration_basis == "calibration data: 50 of 50 images"


def test_no_dac_has_gain_one() -> None:
    _, codings = _calibrated(_model(DENSE, W), _target(dac=Dac()), {"x": _float((5, 4))})
    assert [coding["input_gain"] for coding in codings.values()] == [1.0]


def test_clip_share_holds_on_heavy_tails() -> None:
    x = np.random.default_rng(1).standard_cauchy((200, 4, 100)).astype(np.float32)
    model = _model("y = MatMul(x, w)", {"w": _float((100, 3))}, "float[n,4,100] x")
    scales = []
    for share in (0.0, 1e-3, 1e-2):
        _, codings = _calibrated(model, _target(dac=Dac(bits=8, clip_share=share)), {"x": x})
        (coding,) = codings.values()
        clipped = (np.abs(x) > coding["input_full_scale"]).mean()
        assert clipped <= share
        assert clipped >= 0.95 * share  # not wasteful either: a bin is 1/128 wide, and the tail is 1/x
        scales.append(coding["input_full_scale"])
    assert scales == sorted(scales, reverse=True)


def test_ideal_target_is_left_alone() -> None:
    model = _model(DENSE, W)
    state, codings = _calibrated(model, Target(name="ideal"), {"x": _float((3, 4))})
    assert list(codings.values()) == [{}]
    assert not state.samples
    assert not state.notes


def test_uses_of_a_shared_layer_have_one_coding() -> None:
    x = np.abs(_float((20, 3)))
    body = "a = MatMul(x, w) b = Neg(a) y = MatMul(b, w)"
    state, codings = _calibrated(_model(body, {"w": np.eye(3, dtype=np.float32) * 5}, "float[n,3] x"), _target(), {"x": x})
    first, second = codings.values()
    assert first == second
    assert first["input_signed"] == 1
    assert first["input_full_scale"] == pytest.approx(5 * x.max(), rel=1e-3)
    (vectors,) = state.samples.values()
    assert vectors.shape == (40, 1, 3)


def test_all_zero_inputs_are_noted() -> None:
    state, codings = _calibrated(_model(DENSE, W), _target(), {"x": np.zeros((4, 4), np.float32)})
    assert [coding["input_full_scale"] for coding in codings.values()] == [1.0]
    assert any("all its calibration inputs are 0" in note for note in state.notes)


def test_many_images_are_chosen_evenly() -> None:
    x = np.arange(1000, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    state, _ = _calibrated(_model(DENSE, W), _target(), {"x": x})
    assert state.calibration_basis == "calibration data: 256 of 1000 images"
    (vectors,) = state.samples.values()
    steps = np.diff(np.sort(vectors[:, 0, 0]))
    assert set(steps) == {3.0, 4.0}


def test_a_fixed_batch_is_kept() -> None:
    state, _ = _calibrated(_model(DENSE, W, "float[2,4] x"), _target(), {"x": _float((7, 4))})
    assert state.calibration_basis == "calibration data: 6 of 7 images"
    assert state.input_shapes["x"] == (2, 4)  # in a run


def test_same_bytes_twice() -> None:
    model = _model(
        "a = Conv(x, w) b = Relu(a) y = Conv(b, v)", {"w": _float((5, 3, 3, 3)), "v": _float((2, 5, 1, 1))}, "float[n,3,9,9] x"
    )
    one, two = (_calibrated(model, _target()) for _ in range(2))
    assert one[1] == two[1]
    assert all(np.array_equal(one[0].samples[name], two[0].samples[name]) for name in one[0].samples)


def test_token_numbers_stay_within_their_table() -> None:
    body = "a = Gather(table, x) y = MatMul(a, w)"
    state, _ = _calibrated(_model(body, {**W, "table": _float((7, 4))}, "int64[n,s] x"), _target())
    assert any("'s'" in note or "dimension s" in note for note in state.notes)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"z": np.zeros((1, 4), np.float32)}, "no input z"),
        ({}, "x is missing"),
        ({"x": np.zeros((2, 5), np.float32)}, "shape 2×5"),
        ({"x": np.zeros(4, np.float32)}, "shape 4"),
        ({"x": np.zeros((0, 4), np.float32)}, "no value"),
        ({"x": np.zeros((2, 4), np.uint8)}, "uint8"),
        ({"x": np.full((2, 4), np.nan, np.float32)}, "NaN"),
        ({"x": np.full((2, 4), np.inf, np.float32)}, "NaN or Inf"),
    ],
)
def test_unsuited_data(data: Arrays, says: str) -> None:
    with pytest.raises(DataError, match=says):
        _calibrated(_model(DENSE, W), _target(), data)


def test_overflow_inside_the_model() -> None:
    model = _model("a = Exp(x) y = MatMul(a, w)", W)
    with pytest.raises(DataError, match="NaN or Inf"):
        _calibrated(model, _target(), {"x": np.full((1, 4), 1000, np.float32)})


def test_synthetic_input_that_does_not_run() -> None:
    model = _model("a = Reshape(x, shape) y = MatMul(a, w)", {**W, "shape": np.array([-1, 4])}, "float[n,k] x")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "k"
    reshaped = _model("p = Mul(x, t) y = MatMul(p, w)", {**W, "t": _float((5, 1, 4))}, "float[n,m,4] x")
    _calibrated(model, _target())
    with pytest.raises(DataError, match=r"--calibration"):
        _calibrated(reshaped, _target())


CASES = [
    (
        "y = Conv <pads=[1,2,0,1], strides=[2,1], dilations=[1,2], group=2> (x, w, b)",
        {"w": _float((6, 2, 3, 2)), "b": _float((6,))},
    ),
    ("y = Conv <auto_pad='SAME_UPPER', strides=[2,2]> (x, w)".replace("'", '"'), {"w": _float((6, 4, 3, 3))}),
    ("y = ConvTranspose <strides=[2,2], pads=[1,0,1,0], group=2> (x, w, b)", {"w": _float((4, 3, 3, 2)), "b": _float((6,))}),
    ("y = MatMul(x, w)", {"w": _float((7, 5))}),
    ("y = MatMul(w, x)", {"w": _float((5, 8))}),
    ("y = MatMul(x, w)", {"w": _float((4, 7, 5))}),
    ("f = Flatten(x) y = Gemm <transB=1, alpha=0.5, beta=2.0> (f, w, b)", {"w": _float((5, 224)), "b": _float((5,))}),
    ("f = Flatten(x) y = Gemm <alpha=0.5> (f, w)", {"w": _float((224, 5))}),
    ('y = Einsum <equation="nchw,cwo->nhco"> (x, w)', {"w": _float((4, 7, 3))}),
]


@pytest.mark.parametrize(("body", "weights"), CASES)
def test_expansion_is_the_users_node(body: str, weights: Arrays) -> None:
    model = _model(body, weights, "float[n,4,8,7] x")
    state = Compilation(ir.from_proto(model), _target())
    Select().call(state)
    assert any(node.domain == "cimc" for node in state.model.graph)
    plain = ir.to_proto(expand(state.model))
    x = _float((2, 4, 8, 7))
    want, got = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (model, plain)
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert any(node.domain == "cimc" for node in state.model.graph)


def test_kept_rows_are_windows() -> None:
    """Every kept row vector times the matrix is an output pixel of ONNX Runtime's convolution."""
    w = _float((6, 2, 3, 3))
    model = _model("y = Conv <pads=[1,1,1,1], strides=[2,1], dilations=[1,2], group=2> (x, w)", {"w": w}, "float[n,4,8,7] x")
    x = _float((3, 4, 8, 7), 3)
    geometry = Conv(kernel_shape=(3, 3), strides=(2, 1), dilations=(1, 2), pads=(1, 1, 1, 1))
    rows = row_vectors(x, geometry, 2, 18, 10_000, "")
    matrix = w.reshape(2, 3, 18)
    y = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    got = np.einsum("pgr,gcr->pgc", rows, matrix).reshape(len(rows), 6)
    np.testing.assert_allclose(got, y.transpose(0, 2, 3, 1).reshape(-1, 6), rtol=1e-4, atol=1e-4)
    fewer = row_vectors(x, geometry, 2, 18, 20, "key")
    assert len(fewer) == 20
    assert all(any(np.array_equal(f, r) for r in rows) for f in fewer)


def test_extent_bounds_its_share() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 100_000).astype(np.float32)
    for share in (1e-4, 1e-2, 0.3):
        extent = Extent(count=True)
        assert all(extent.add(part) for part in np.split(values, 10))
        assert 0.9 * share < (values > extent.full_scale(share)).mean() <= share
    assert not Extent(count=True).add(np.array([np.nan], np.float32))


def test_rounding_up() -> None:
    assert [rounded_up(v) for v in (1.0, 0.12341, 9.9991, 70.0, 12345.0)] == [1.0, 0.1235, 10.0, 70.0, 12350.0]


def test_array_rows_do_not_matter() -> None:
    """Calibration sees the model alone: it works before any cut to arrays."""
    wide = _model(DENSE, {"w": _float((4, 3))})
    assert _calibrated(wide, _target(array=Array(rows=2)))[1] == _calibrated(wide, _target())[1]


def test_text() -> None:
    """The example of the module's text: bytes of an input from 0 to 1."""
    target = load_target("bulk-rram")
    state = Compilation(ir.from_proto(_model("[conv1] y = Conv (x, w)", {"w": _float((8, 3, 3, 3))}, "float[n,3,8,8] x")), target)
    before = nodes(PassManager([Select()]).run(state).model)
    (line,) = nodes(PassManager([Calibrate()]).run(state).model)
    assert (
        line.replace(
            ", input_gain: float = 255, input_signed: int = 0, input_full_scale: float = 1, "
            'input_basis: string = "sign: interval analysis; full scale: stated range"',
            "",
        )
        in before
    )
