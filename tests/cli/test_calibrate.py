"""`cimc calibrate` in this process: what it writes, what it tells, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc as api

from .conftest import cimc, small_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images with labels, and test images with others."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("calibrate") / "data.npz"
    x = {f"x_{part}": random.integers(0, 256, (count, 6, 6), np.uint8) for part, count in (("train", 90), ("test", 40))}
    np.savez(path, **x, y_train=random.integers(0, 4, 90), y_test=random.integers(0, 4, 40))
    return path


def test_the_fitted_chip_is_the_one_of_the_seed(made: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "fitted.cim"
    done = cimc("calibrate", made / "small.cim", "--data", data, "--images", 80, "--seed", 3, "-o", out, "--json")
    assert done.code == 0, done.err
    told = done.json
    assert (told["seed"], told["images"], told["check_images"], told["held_out"]) == (3, 80, 40, True)
    assert [step["name"] for step in told["steps"]] == ["conv", "dense"]
    for step in told["steps"]:
        assert step["scaled"] + step["shifted"] + step["unchanged"] == step["channels"]
        assert step["sqnr_db_after"] > step["sqnr_db_before"]
    assert told["accuracy"]["images"] == 40
    # Python does the same, on every 80th part of the training images.
    chip = api.Chip(api.load(made / "small.cim"), 3)
    with np.load(data) as arrays:
        x = (arrays["x_train"][:, None].astype(np.float32) / np.float32(255))[np.arange(80) * 90 // 80]
    chip.fit_outputs([{"input": x[n : n + 32]} for n in range(0, 80, 32)])
    again = api.Chip(api.load(out))
    for name, fit in chip.fits.items():
        np.testing.assert_array_equal(again.fits[name].scale, fit.scale)
        np.testing.assert_array_equal(again.fits[name].offset, fit.offset)
    np.testing.assert_array_equal(again.conductances("conv"), chip.conductances("conv"))


def test_later_commands_say_whose_fit_it_is(made: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "fitted.cim"
    assert cimc("calibrate", made / "small.cim", "--data", data, "--seed", 3, "-o", out).code == 0
    shown = cimc("inspect", out)
    assert "fitted on the die of seed 3" in shown.out
    assert "90 images" in cimc("inspect", out, "--json").json["provenance"]["fitted"]
    for command in (("evaluate", out, "--data", data), ("run", out, "--input", data, "-o", tmp_path / "y.npz")):
        other, own = (cimc(*command, "--seed", seed) for seed in (4, 3))
        assert "die of seed 3" in other.err and "die of seed" not in own.err  # noqa: PT018


def test_images_that_are_not_fitted_on_are_held_out(made: Path, tmp_path: Path) -> None:
    """Of a file with x and y alone."""
    done = cimc("calibrate", made / "small.cim", "--data", made / "data.npz", "--images", 8, "-o", tmp_path / "f.cim", "--json")
    assert done.code == 0, done.err
    told = done.json
    assert (told["images"], told["check_images"], told["accuracy"]["images"], told["held_out"]) == (8, 4, 4, True)
    assert any("few" in note for note in told["notes"])
    done = cimc("calibrate", made / "small.cim", "--data", made / "images.npz", "-o", tmp_path / "f.cim", "--json")
    assert done.json["accuracy"] is None
    assert not done.json["held_out"]
    assert any("fitted on" in note for note in done.json["notes"])


def test_a_fixed_batch_is_kept(data: Path, tmp_path: Path) -> None:
    """90 training images make two batches of 32, the 40 test images one."""
    model = small_model(np.random.default_rng(5))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 32
    x = np.random.default_rng(0).random((32, 1, 6, 6), np.float32)
    api.compile(model, target="bulk-rram", calibration={"input": x}).save(tmp_path / "fixed.cim")
    done = cimc("calibrate", tmp_path / "fixed.cim", "--data", data, "--images", 80, "-o", tmp_path / "f.cim", "--json")
    assert done.code == 0, done.err
    assert (done.json["images"], done.json["check_images"], done.json["accuracy"]["images"]) == (64, 32, 32)


@pytest.mark.parametrize(
    "options", [["--ranges"], ["--method", "least-squares"], ["--method", "offset"], ["--backend", "reference"]]
)
def test_options_are_taken(options: list[str], made: Path, data: Path, tmp_path: Path) -> None:
    done = cimc("calibrate", made / "small.cim", "--data", data, "-o", tmp_path / "f.cim", "--json", *options)
    assert done.code == 0, done.err
    ranges = [layer.adc_range_ua for layer in api.load(tmp_path / "f.cim").layers]
    before = [layer.adc_range_ua for layer in api.load(made / "small.cim").layers]
    assert (ranges != before) == ("--ranges" in options)
    if "offset" in options:
        assert all(step["scaled"] == 0 for step in done.json["steps"])


def test_an_exact_chip_needs_no_fit(made: Path, data: Path, tmp_path: Path) -> None:
    done = cimc("calibrate", made / "ideal.cim", "--data", data, "-o", tmp_path / "f.cim")
    assert done.code == 0
    assert "nothing was fitted" in done.err


def test_what_cannot_be_used_is_refused(made: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.cim"
    assert cimc("calibrate", made / "small.cim", "--data", data, "-o", made / "small.cim").code == 2
    assert cimc("calibrate", made / "small.cim", "--data", data, "--method", "best", "-o", out).code == 2
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 7, 7), np.uint8))
    done = cimc("calibrate", made / "small.cim", "--data", tmp_path / "wide.npz", "-o", out)
    assert done.code == 2
    assert "shape" in done.err
    assert not out.exists()
