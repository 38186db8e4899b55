"""The pass ``scales``: what it may choose, and what it leaves alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.compiler import compile_model
from cimc.targets.load import load_target
from tests.calibration.models import inputs, mean_square_db, product, weights
from tests.passes.graph_text import nodes

LARGEST = {"weights.window": "largest", "dac.full_scale": "largest"}
LEAST = {"weights.window": "least_error", "dac.full_scale": "least_error", "weights.scale": "column"}
#: Chips that have errors, by their own scales; one of them with pairs that the array subtracts.
NOISY = {
    "bulk-rram": {},
    "bulk-rram-256": {},
    "hermes-pcm": {},
    "cmo-hfox": {},
    "neurram": {"weights.clip_sigma": None, "dac.clip_share": 0.0, **LEAST},
}


def _scales(
    target: str, settings: dict[str, Any], *, calibrated: bool = True, weight: np.ndarray | None = None
) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    weight = weights(rng, 80, 6) if weight is None else weight
    x = inputs(rng, (300, weight.shape[0])) ** 3
    data = {"x": x} if calibrated else None
    state = compile_model(product(weight), target, calibration=data, settings=LEAST | settings, stop_after="scales")
    (node,) = (node for node in state.model.graph if node.domain == "cimc")
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    return found | {"largest": np.abs(weight).max(0), "reach": float(x.max())}


def test_each_column_gets_a_window_of_its_own() -> None:
    found = _scales("bulk-rram-256", {})
    assert (np.array(found["weight_max"]) < found["largest"]).all()
    assert len(set(found["weight_max"])) == 6


def test_one_scale_for_the_layer() -> None:
    found = _scales("bulk-rram-256", {"weights.scale": "layer"})
    assert len(found["weight_max"]) == 1
    assert 0 < found["weight_max"][0] < found["largest"].max()


def test_large_inputs_are_clipped_where_the_converter_is_noisy() -> None:
    """Cubed inputs have a long tail: the ADC's noise is far above what their few largest values carry."""
    noisy, quiet = (_scales("bulk-rram-256", {"adc.sigma_lsb": sigma}) for sigma in (4.0, 0.0))
    assert 0 < noisy["input_full_scale"] < quiet["input_full_scale"] <= noisy["reach"] * 1.001
    assert 0 < noisy["input_clip_share"] < 0.1


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("bulk-rram-256", LARGEST),
        ("isaac", {}),
        ("bulk-rram-256", LARGEST | {"weights.clip_sigma": 100.0, "dac.clip_share": 1e-9}),
    ],
)
def test_largest_clips_nothing(target: str, settings: dict[str, Any]) -> None:
    found = _scales(target, settings)
    assert max(found["weight_max"]) == pytest.approx(found["largest"].max())
    assert found["input_full_scale"] >= found["reach"]


def test_stated_limits_are_kept() -> None:
    found = _scales("bulk-rram-256", {"weights.clip_sigma": 2.0, "dac.clip_share": 0.01})
    assert "input_clip_share" not in found
    stated = _scales("bulk-rram-256", LARGEST | {"weights.clip_sigma": 2.0, "dac.clip_share": 0.01})
    assert found["weight_max"] == stated["weight_max"]
    assert found["input_full_scale"] == stated["input_full_scale"]


def test_a_synthetic_input_says_nothing_of_its_tail() -> None:
    assert _scales("bulk-rram-256", {}, calibrated=False)["input_full_scale"] == 1.0


def test_a_layer_of_zeros_has_no_scale() -> None:
    assert _scales("bulk-rram-256", {}, weight=np.zeros((80, 6), np.float32))["weight_max"] == (0.0,) * 6


def test_nothing_changes_on_ideal() -> None:
    rng = np.random.default_rng(6)
    weight, x = weights(rng, 30, 4), inputs(rng, (20, 30))
    before = compile_model(product(weight), "ideal", calibration={"x": x}, stop_after="quantise").model
    after = compile_model(product(weight), "ideal", calibration={"x": x}, stop_after="scales").model
    assert [dict(node.attributes) for node in before.graph] == [dict(node.attributes) for node in after.graph]


@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256", "hermes-pcm"])
def test_the_choice_loses_less_than_the_largest(target: str) -> None:
    rng = np.random.default_rng(8)
    weight, x = weights(rng, 100, 16), inputs(rng, (128, 100))
    found = []
    for settings in (LEAST, LARGEST | {"weights.scale": "layer"}):
        program = cimc.compile(product(weight), target, calibration={"x": x}, settings=settings)
        dice = [cimc.Chip(program, seed, backend="reference").run({"x": x})["y"] - x @ weight for seed in range(4)]
        found.append(mean_square_db(x @ weight, dice))
    assert found[0] > found[1] + 1


def _structured() -> dict[str, np.ndarray]:
    """Matrices that clipping could ruin, ``[rows, columns]``."""
    rng = np.random.default_rng(11)
    normal = rng.standard_normal((64, 8))
    zero_columns, outlier, sparse, one_large = normal.copy(), normal.copy(), np.zeros((64, 8)), 0.01 * normal
    zero_columns[:, 2:5] = 0
    outlier[5, 2] = 500
    sparse[rng.integers(64, size=8), np.arange(8)] = 10 * rng.standard_normal(8)
    one_large[:, 0] = normal[:, 0]
    heavy = rng.standard_t(1.5, (64, 8))
    return {
        "normal": normal, "zero columns": zero_columns, "outlier": outlier, "one weight a column": sparse, "heavy tail": heavy,
        "one large column": one_large, "columns of all sizes": normal * np.logspace(-3, 3, 8), "one row": normal[:1],
        "one weight": normal[:1, :1], "identity": np.eye(24), "ternary": rng.integers(-1, 2, (40, 8)).astype(float),
    }  # fmt: skip


def _power(model: Any, target: str, x: np.ndarray, settings: dict[str, Any]) -> float:
    """Expected error power over signal power of the only layer."""
    (layer,) = cimc.compile(model, target, calibration={"x": x}, settings=settings).forecast().layers
    return 0.0 if layer.sqnr_db is None else float(10 ** (-layer.sqnr_db / 10))


@pytest.mark.parametrize("shape", _structured())
@pytest.mark.parametrize(("target", "signed"), [("bulk-rram-256", True), ("bulk-rram-256", False), ("neurram", False)])
def test_the_expected_error_is_never_above_that_of_the_largest(target: str, signed: bool, shape: str) -> None:
    """Neither with one weight scale for each column nor with one for the layer."""
    weight = _structured()[shape].astype(np.float32)
    x = np.random.default_rng(12).standard_normal((64, len(weight))).astype(np.float32)
    x = x if signed else np.maximum(x, 0) ** 3
    chosen = _power(product(weight), target, x, NOISY[target])
    for scale in ("column", "layer"):
        largest = _power(product(weight), target, x, NOISY[target] | LARGEST | {"weights.scale": scale})
        assert chosen <= largest * 1.001


@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256"])
def test_a_depthwise_layer_is_no_worse(target: str) -> None:
    rng = np.random.default_rng(13)
    text = "m (float[N, 6, 8, 8] x) => (float[N, 6, 6, 6] y) { y = Conv <group = 6> (x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    weight = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = np.maximum(rng.standard_normal((16, 6, 8, 8)), 0).astype(np.float32)
    analog = {"mapping.depthwise": "analog"}
    assert _power(model, target, x, analog) <= _power(model, target, x, analog | LARGEST | {"weights.scale": "layer"}) * 1.001


@pytest.mark.parametrize("target", NOISY)
def test_built_in_chips_with_errors_choose_by_least_error(target: str) -> None:
    program = cimc.compile(product(np.eye(4, dtype=np.float32)), target)
    stated = program.target.weights.clip_sigma is not None  # neurram states the limits of its control software
    assert (program.target.weights.window == "least_error") != stated
    assert (program.target.dac.full_scale == "least_error") != stated


@pytest.mark.parametrize("target", ["ideal", "isaac"])
def test_chips_without_errors_clip_nothing(target: str) -> None:
    assert _scales_of(target) == ("largest", "largest", "layer")


def _scales_of(target: str) -> tuple[str, str, str]:
    found = load_target(target)
    return found.weights.window, found.dac.full_scale, found.weights.scale


def test_an_image_for_another_chip_has_the_scales_that_a_compilation_for_it_has() -> None:
    rng = np.random.default_rng(14)
    weight, x = weights(rng, 80, 6), inputs(rng, (300, 80))
    source = cimc.compile(product(weight), "bulk-rram", calibration={"x": x})
    wanted = cimc.compile(product(weight), "bulk-rram-256", calibration={"x": x})
    image = cimc.export_image(source, "bulk-rram-256", calibration={"x": x})
    (layer,) = wanted.layers
    assert image.layers[0].coding == layer.coding
    np.testing.assert_array_equal(image.compiled.tensors[f"weight_max/{layer.name}"], wanted.tensors[f"weight_max/{layer.name}"])


def test_an_image_for_arrays_of_another_size_keeps_windows_without_data() -> None:
    """As one around faults does: devices and converters are the same, and no data could choose anew."""
    rng = np.random.default_rng(16)
    weight, x = weights(rng, 80, 6), inputs(rng, (300, 80)) ** 3
    source = cimc.compile(product(weight), "bulk-rram-256", calibration={"x": x})
    (layer,) = source.layers
    image = cimc.export_image(source, "bulk-rram-256", settings={"array.rows": 32, "array.columns": 8})
    np.testing.assert_array_equal(image.compiled.tensors[f"weight_max/{layer.name}"], source.tensors[f"weight_max/{layer.name}"])
    coding = image.layers[0].coding
    assert layer.coding.clip_share > 0
    assert (coding.full_scale, coding.clip_share) == (layer.coding.full_scale, layer.coding.clip_share)
    unclipped = cimc.export_image(source, "isaac")
    assert any("clip the largest inputs" in note for note in unclipped.meta["notes"])


def test_what_the_sample_never_drives_is_not_clipped_for_nothing() -> None:
    """A chip without errors: rows without any input in the calibration data keep their large weights too."""
    rng = np.random.default_rng(15)
    weight, x = weights(rng, 40, 3), inputs(rng, (30, 40))
    x[:, 20:] = 0
    exact = {"device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0, "adc.bits": None}
    state = compile_model(product(weight), "bulk-rram", calibration={"x": x}, settings=exact, stop_after="scales")
    (node,) = (node for node in state.model.graph if node.domain == "cimc")
    np.testing.assert_allclose(node.attributes["weight_max"].value, np.abs(weight).max(axis=0))


def test_text() -> None:
    """The example of the module's text: one large weight and one large input are clipped."""
    rng = np.random.default_rng(17)
    weight, x = weights(rng, 80, 2), inputs(rng, (300, 80)) ** 3
    options: Any = {"calibration": {"x": x}, "settings": LEAST}
    before, after = (
        nodes(compile_model(product(weight), "bulk-rram-256", stop_after=stop, **options).model)[0]
        for stop in ("quantise", "scales")
    )
    changed = [a for a, b in zip(_attributes(after), _attributes(before), strict=False) if a != b]
    assert {text.partition(":")[0] for text in changed} >= {"input_gain", "input_full_scale", "weight_max"}
    full_scales, spans = zip(*(_numbers(line) for line in (before, after)), strict=True)
    assert full_scales[1] < full_scales[0]
    assert (np.array(spans[1]) < np.array(spans[0])).all()


def _attributes(line: str) -> list[str]:
    return re.split(r", (?=\w+: \w+ = )", line)


def _numbers(line: str) -> tuple[float, list[float]]:
    """Full scale and weights that span the windows."""
    scale, span = re.search(r"input_full_scale: float = ([-0-9.e]+)", line), re.search(r"weight_max: floats = \[(.*?)\]", line)
    assert scale is not None
    assert span is not None
    return float(scale[1]), [float(word) for word in span[1].split(",")]
