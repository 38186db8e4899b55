"""The pass ``scales``: what it may choose, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.compiler import compile_model
from tests.calibration.models import inputs, mean_square_db, product, weights

LARGEST = {"weights.window": "largest", "dac.full_scale": "largest"}
LEAST = {"weights.window": "least_error", "dac.full_scale": "least_error", "weights.scale": "column"}


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
