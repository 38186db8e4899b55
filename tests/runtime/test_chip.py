"""A chip on real models: the same bytes whatever the split, refusals that say what to do, calibration, accuracy figures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import parser

from cimc.compiler import compile_model
from cimc.errors import CimcError, DataError
from cimc.ir.program import Program
from cimc.runtime.chip import Chip
from cimc.threads import set_threads

EXAMPLES = Path(__file__).parents[2] / "examples"
LENET = EXAMPLES / "lenet_mnist" / "lenet.onnx"


@pytest.fixture(scope="module")
def digits() -> NDArray[np.float32]:
    with np.load(EXAMPLES / "data" / "mnist.npz") as data:
        return data["x_test"][:256, None].astype(np.float32) / 255


@pytest.fixture(scope="module", params=["bulk-rram", "bulk-rram-256", "isaac", "ideal"])
def lenet(request: pytest.FixtureRequest, digits: NDArray[np.float32]) -> Program:
    return compile_model(LENET, request.param, calibration={"input": digits}).need_program()


def logits(chip: Chip, x: NDArray[np.float32], first: int | None = None) -> NDArray[np.float32]:
    return next(iter(chip.run({"input": x}, first).values()))


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=3).map(lambda c: sorted({0, 40, *c})))
def test_any_split_along_the_batch_gives_the_same_bytes(lenet: Program, digits: NDArray[np.float32], cuts: list[int]) -> None:
    whole = logits(Chip(lenet, 3), digits[:40], 100)
    chip = Chip(lenet, 3)
    parts = [logits(chip, digits[a:b], 100 + a) for a, b in pairwise(cuts)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_any_number_of_threads_gives_the_same_bytes(lenet: Program, digits: NDArray[np.float32]) -> None:
    found = []
    for number in (1, 2):
        set_threads(number)
        found.append(logits(Chip(lenet, 5), digits).tobytes())
    set_threads(None)
    assert found[0] == found[1]


def test_images_are_counted_on_from_run_to_run(lenet: Program, digits: NDArray[np.float32]) -> None:
    chip = Chip(lenet, 1)
    parts = [logits(chip, digits[:8]), logits(chip, digits[8:20])]
    assert np.concatenate(parts).tobytes() == logits(Chip(lenet, 1), digits[:20], 0).tobytes()


def test_images_are_those_of_the_first_input_that_has_an_axis() -> None:
    """A table that goes in beside the images is no batch: the next image is number 3, not 10."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        beside (float[n, 8] x, float[9, 4] table) => (float[n, 4] y) {
            h = MatMul (x, w)
            t = ReduceMean <axes = [0]> (table)
            y = Add (h, t)
        }"""
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w"))
    x, table = rng.random((5, 8)).astype(np.float32), rng.random((9, 4)).astype(np.float32)
    program = compile_model(model, "bulk-rram", calibration={"x": x, "table": table}).need_program()
    chip = Chip(program)
    parts = [chip.run({"x": part, "table": table})["y"] for part in (x[:3], x[3:])]
    assert np.concatenate(parts).tobytes() == Chip(program).run({"x": x, "table": table}, 0)["y"].tobytes()


def test_another_seed_is_another_chip(digits: NDArray[np.float32]) -> None:
    program = compile_model(LENET, "bulk-rram", calibration={"input": digits}).need_program()
    one, other = Chip(program, 0), Chip(program, 1)
    assert (one.conductances("conv1") != other.conductances("conv1")).mean() > 0.9
    assert Chip(program, 0).conductances("conv1").tobytes() == one.conductances("conv1").tobytes()


def test_flattened_positions_belong_to_their_images() -> None:
    """Tokens that the model flattens into rows draw the noise of their own image, whatever the split."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        tokens (float[n, 5, 8] x) => (float[m, 4] y) <int64[2] flat = {-1, 8}> {
            r = Reshape (x, flat)
            y = MatMul (r, w)
        }"""
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w"))
    x = rng.random((6, 5, 8)).astype(np.float32)
    program = compile_model(model, "bulk-rram", calibration={"x": x}).need_program()
    whole = Chip(program).run({"x": x}, 0)["y"]
    chip = Chip(program)
    parts = [chip.run({"x": x[:2]}, 0)["y"], chip.run({"x": x[2:]}, 2)["y"]]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_segments_that_may_depend_on_the_split_run_image_by_image() -> None:
    """Softmax is not proved to split exactly; deterministic execution makes it so."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        head (float[n, 8] x) => (float[n, 33] y) {
            h = MatMul (x, w)
            y = Softmax (h)
        }"""
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((8, 33)).astype(np.float32), "w"))
    x = rng.random((7, 8)).astype(np.float32)
    program = compile_model(model, "bulk-rram", calibration={"x": x}).need_program()
    assert [step.splits_exactly for step in program.steps if step.kind == "digital"] == [False]
    assert "how a batch is split" in next(row.why for row in program.placements if row.op_type == "Softmax")
    whole = Chip(program, deterministic=True).run({"x": x}, 0)["y"]
    chip = Chip(program, deterministic=True)
    parts = [chip.run({"x": x[:1]}, 0)["y"], chip.run({"x": x[1:]}, 1)["y"]]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_calibrating_on_the_chip_mends_ranges_that_do_not_suit(digits: NDArray[np.float32]) -> None:
    """Calibrated for images ten times as dark, the chip saturates; calibrated again, it does not."""
    program = compile_model(LENET, "bulk-rram", calibration={"input": digits * np.float32(0.1)}).need_program()
    chip = Chip(program)
    before = logits(chip, digits)
    clipped = sum(layer["dac_clips"] for layer in chip.stats().values())
    chip.calibrate({"input": digits})
    counted = sum(layer["dac_clips"] for layer in chip.stats().values())
    after = logits(chip, digits)
    assert clipped > 0
    assert sum(layer["dac_clips"] for layer in chip.stats().values()) - counted < clipped / 100
    exact = ort.InferenceSession(str(LENET)).run(None, {"input": digits})[0]
    assert np.square(after - exact).sum() < np.square(before - exact).sum()


def test_weights_of_a_chip_without_error_are_the_models(digits: NDArray[np.float32]) -> None:
    settings = {"device.programming.sigma_us": 0.0, "device.programming.mean_us": 0.0, "weights.window": "largest"}
    program = compile_model(LENET, "bulk-rram", settings=settings, calibration={"input": digits}).need_program()
    held = Chip(program).weights()["fc"][0]
    wanted = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(LENET).graph.initializer}[
        program.layer("fc").weight.tensor
    ]
    wanted = wanted if wanted.shape == held.shape else wanted.T
    # float32 conductances near 33 µS, of which the weights span 24.7 µS
    np.testing.assert_allclose(held, wanted, atol=float(np.abs(wanted).max()) * 2**-22)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no data for input input"),
        ({"input": np.zeros((1, 1, 28, 28), np.float32), "image": np.zeros(1)}, "no input is called image"),
        ({"input": np.zeros((1, 1, 28, 28), np.float64)}, "float64, the model wants float32"),
        ({"input": np.zeros((1, 28, 28), np.float32)}, r"shape \(1, 28, 28\)"),
        ({"input": np.zeros((1, 1, 28, 27), np.float32)}, r"shape \(1, 1, 28, 27\)"),
        ({"input": np.full((1, 1, 28, 28), np.nan, np.float32)}, "NaN"),
    ],
)
def test_inputs_that_do_not_suit_are_refused(digits: NDArray[np.float32], inputs: dict[str, Any], message: str) -> None:
    chip = Chip(compile_model(LENET, "bulk-rram", calibration={"input": digits}).need_program())
    with pytest.raises(DataError, match=message):
        chip.run(inputs)


def test_data_outside_an_assumed_range_is_refused_never_clipped() -> None:
    chip = Chip(compile_model(LENET, "bulk-rram").need_program())
    with pytest.raises(DataError, match=r"input\.range=-1,2"):
        chip.run({"input": np.linspace(-1, 2, 784, dtype=np.float32).reshape(1, 1, 28, 28)})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_checked(seed: int) -> None:
    program = compile_model(LENET, "ideal").need_program()
    with pytest.raises(CimcError, match="seed"):
        Chip(program, seed)


def test_a_batch_of_no_images_gives_no_results() -> None:
    chip = Chip(compile_model(LENET, "bulk-rram").need_program())
    assert logits(chip, np.zeros((0, 1, 28, 28), np.float32)).shape == (0, 10)
