"""Outputs of a chip, fitted to an ideal execution: planted errors are taken off, nothing is written, and guesses are not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import cimc
from cimc.image.info import describe
from cimc.report.compare import sqnr_db
from cimc.runtime.output_fit import fit
from cimc.threads import set_threads
from tests.image.models import exact
from tests.training import small

Array = NDArray[Any]
#: A chip without errors or noise, whose conversions are nearly exact.
CLEAN = exact(adc__bits=None, dac__bits=16, weights__rounded=False)

#: Body, shape of x, shapes of constants; output channels of each column of a layer in order.
MODELS = {
    "two convolutions": (
        "a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)"
        "  y = Conv <kernel_shape = [2, 2]> (r, w2)",
        (2, 5, 6), {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (3, 4, 2, 2)},
    ),
    "groups": ("y = Conv <kernel_shape = [2], group = 2> (x, w)", (4, 7), {"w": (6, 2, 2)}),
    "normalised": ("a = Conv <kernel_shape = [2, 2]> (x, w)  y = BatchNormalization (a, s, b, b, s)", (2, 5, 5),
                   {"w": (4, 2, 2, 2), "s": (4,), "b": (4,)}),
    "transposed": (
        "y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w, b)",
        (3, 4, 4), {"w": (3, 5, 2, 2), "b": (5,)},
    ),
    "dense": ("h = Gemm <transB = 1> (x, w1, b1)  t = Tanh (h)  y = MatMul (t, w2)", (6,),
              {"w1": (8, 6), "b1": (8,), "w2": (8, 3)}),
    "constant on the left": ("y = MatMul (w, x)", (6, 3), {"w": (4, 6)}),
    "einsum": ('y = Einsum <equation = "nij,kj->nki"> (x, w)', (3, 6), {"w": (4, 6)}),
    "recurrent": ("t = Transpose <perm = [1, 0, 2]> (x)  y, h = RNN <hidden_size = 5> (t, w, r)", (3, 4),
                  {"w": (1, 5, 4), "r": (1, 5, 5)}),
}  # fmt: skip


def model(body: str, shape: tuple[int, ...], constants: dict[str, tuple[int, ...]], seed: int = 0) -> onnx.ModelProto:
    sizes = ", ".join(["N", *map(str, shape)])
    text = f'<ir_version: 8, opset_import: ["": 17]> m (float[{sizes}] x) => (float y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    random = np.random.default_rng(seed)
    for name, size in constants.items():
        value = random.uniform(0.5, 1.5, size) if name in ("s", "b") else random.normal(0, 0.4, size)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    return proto


def images(shape: tuple[int, ...], count: int = 32, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype(np.float32)}


def with_gains(chip: cimc.Chip, seed: int = 0) -> cimc.Chip:
    """Conductances of each output channel times a factor of its own, from 0.7 to 1.3."""
    for layer in chip.program.layers:
        crossbar = chip.crossbars[layer.name]
        step = next(step for step in chip.program.vmm_steps if step.layer == layer.name)
        taps = int(np.prod(step.geometry.kernel_shape)) if step.geometry.kind == "conv_transpose" else 1
        gains = np.random.default_rng(seed).uniform(0.7, 1.3, (crossbar.groups, 1, 1, crossbar.columns // taps))
        crossbar.set_conductances((crossbar.g_us * gains.repeat(taps, axis=3)).astype(np.float32))
    return chip


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_gain_of_each_channel_is_taken_off(name: str) -> None:
    """The factors are exact, so what is left after the fit is what the DAC clips; the oracle is ONNX Runtime."""
    body, shape, constants = MODELS[name]
    proto, (known, new) = model(body, shape, constants), (images(shape, seed=seed) for seed in (1, 2))
    expected = ort.InferenceSession(proto.SerializeToString()).run(["y"], new)[0]
    chip = with_gains(cimc.Chip(cimc.compile(proto, CLEAN, calibration=known)))
    before = sqnr_db(expected, chip.run(new, 0)["y"])
    rows = chip.fit_outputs(known)
    after = sqnr_db(expected, chip.run(new, 0)["y"])
    assert before is not None
    assert after is not None
    assert before < 25
    assert after > 40
    assert [row.name for row in rows] == [step.name for step in chip.program.vmm_steps]
    assert all(row.scaled == row.channels and row.unchanged == 0 for row in rows)


@pytest.mark.parametrize("method", ["least_squares", "moments"])
def test_converters_that_differ_are_corrected(method: Any) -> None:
    """Where one converter makes a channel, its gain and offset are errors of scale and mean: fitted, the chip lacks them."""
    body, shape, constants = MODELS["two convolutions"]
    proto, known, new = model(body, shape, constants), images(shape, 128), images(shape, 128, seed=2)
    plain = {"adc.bits": 12, "adc.range_ua": None, "adc.pair_read": "subtracted", "dac.signed": "bipolar", "array.rows": 64}
    planted = plain | {"adc.gain_sigma": 0.05, "adc.offset_sigma_lsb": 40}
    found = {}
    for kind, settings in (("plain", plain), ("planted", planted)):
        chip = cimc.Chip(cimc.compile(proto, CLEAN, calibration=known, settings=settings), 1)
        ranges = {name: (bar.layer.coding, 1.5 * (bar.adc_range_ua or 0)) for name, bar in chip.crossbars.items()}
        chip.set_ranges(ranges)  # room for the errors: what saturates, no fit mends
        before = chip.sqnr(new)
        chip.fit_outputs(known, method)
        found[kind] = before, chip.sqnr(new)
    for step, clean in found["plain"][0].items():
        before, after = (part[step] for part in found["planted"])
        assert clean is not None
        assert before is not None
        assert after is not None
        assert before < clean - 15
        assert after > clean - 3


def test_the_offset_alone_corrects_the_mean() -> None:
    random = np.random.default_rng(0)
    r = random.normal(3, 1, (500, 2))
    y = 0.5 * r + random.normal(0, 0.1, r.shape) + 7
    found = fit([(y, r)], 2, 500, "offset")
    np.testing.assert_array_equal(found.scale, 1)
    np.testing.assert_allclose(found.offset, (r - y).mean(axis=0))


def test_least_squares_are_those_of_numpy_and_moments_match_those_of_the_reference() -> None:
    random = np.random.default_rng(0)
    r = random.normal(3, [1, 2, 3], (400, 3))
    y = r * [0.5, 1.5, 2.0] + random.normal(0, 0.4, r.shape) - 2
    parts = [(y[:150], r[:150]), (y[150:], r[150:])]
    found = fit(parts, 3, 400, "least_squares")
    for n in range(3):
        np.testing.assert_allclose([found.scale[n], found.offset[n]], np.polyfit(y[:, n], r[:, n], 1))
    found = fit(parts, 3, 400, "moments")
    fitted = y * found.scale + found.offset
    np.testing.assert_allclose(fitted.mean(axis=0), r.mean(axis=0))
    np.testing.assert_allclose(fitted.std(axis=0), r.std(axis=0))


def test_a_channel_without_variance_gets_an_offset_alone() -> None:
    """A reference that is constant tells nothing of a scale: one that fits noise to it would silence the channel."""
    random = np.random.default_rng(0)
    r = random.normal(0, 1, (300, 3))
    r[:, 1] = 5.0
    y = 0.8 * r + random.normal(0, 0.1, r.shape)
    y[:, 2] = 1.0  # nor does a chip's
    found = fit([(y, r)], 3, 300, "least_squares")
    assert found.scale[0] == pytest.approx(1.25, abs=0.05)
    np.testing.assert_array_equal(found.scale[1:], 1)
    assert found.offset[1] == pytest.approx(1.0, abs=0.05)  # 5 for 0.8 * 5
    assert np.isfinite(found.offset).all()


@pytest.mark.parametrize(("count", "scaled", "shifted"), [(3, False, False), (8, False, True), (16, True, True)])
def test_few_images_fit_less(count: int, scaled: bool, shifted: bool) -> None:
    r = np.random.default_rng(0).normal(0, 1, (count, 4))
    found = fit([(0.5 * r + 3, r)], 4, count, "moments")
    assert ((found.scale != 1) == scaled).all()
    assert ((found.offset != 0) == shifted).all()


@pytest.mark.parametrize("method", ["least_squares", "moments", "offset"])
def test_noise_alone_is_rarely_taken_for_an_error(method: Any) -> None:
    """Of 2,000 exact channels about 1 in 22 lies beyond two standard errors, for scale and for offset; 5 deviations more."""
    random = np.random.default_rng(0)
    r = random.normal(0, 1, (200, 2000))
    y = r + random.normal(0, 1e-3, r.shape)
    found = fit([(y, r)], 2000, 200, method)
    limit = 2000 * 0.0455 * 1.15 + 5 * np.sqrt(2000 * 0.0455)  # Student's t at 198 degrees is hardly wider than the normal
    assert (found.offset != 0).sum() < limit
    assert (found.scale != 1).sum() < limit


def test_no_device_is_written_and_the_fit_is_saved(tmp_path: Path) -> None:
    chip, x = small.chip(seed=3), small.data(128)[0]
    held = {name: chip.conductances(name).tobytes() for name in chip.crossbars}
    plain = chip.run({"x": x}, 0)["y"]
    chip.fit_outputs({"x": x})
    fitted = chip.run({"x": x}, 0)["y"]
    assert {name: chip.conductances(name).tobytes() for name in chip.crossbars} == held
    assert fitted.tobytes() != plain.tobytes()
    chip.save(tmp_path / "fitted.cim")
    again = cimc.Chip(cimc.load(tmp_path / "fitted.cim"))
    assert again.seed == 3
    assert again.run({"x": x}, 0)["y"].tobytes() == fitted.tobytes()
    again.save(tmp_path / "again.cim")
    assert (tmp_path / "again.cim").read_bytes() == (tmp_path / "fitted.cim").read_bytes()
    assert again.forget_fits()
    assert not again.forget_fits()
    assert again.run({"x": x}, 0)["y"].tobytes() == plain.tobytes()


def test_a_second_fit_replaces_the_first() -> None:
    """It starts from the bare chip: where noise is none, the same images give the same coefficients."""
    body, shape, constants = MODELS["dense"]
    x = images(shape)
    chip = with_gains(cimc.Chip(cimc.compile(model(body, shape, constants), CLEAN, calibration=x)))
    chip.fit_outputs(x)
    first = chip.fits
    chip.fit_outputs(x)
    for name, found in chip.fits.items():
        np.testing.assert_array_equal(found.scale, first[name].scale)


def test_fits_do_not_depend_on_threads() -> None:
    found = []
    for number in (1, 2):
        set_threads(number)
        chip = small.chip(seed=1)
        chip.fit_outputs({"x": small.data(64)[0]})
        found.append([(fit.scale.tobytes(), fit.offset.tobytes()) for fit in chip.fits.values()])
    set_threads(None)
    assert found[0] == found[1]


def test_batches_are_fitted_as_one() -> None:
    """A model of a fixed batch is fitted on several runs; where there is no noise, the cut makes no difference."""
    body, shape, constants = MODELS["two convolutions"]
    x = images(shape)
    program = cimc.compile(model(body, shape, constants), CLEAN, calibration=x)
    whole, parts = with_gains(cimc.Chip(program)), with_gains(cimc.Chip(program))
    whole.fit_outputs(x)
    parts.fit_outputs([{"x": x["x"][n : n + 8]} for n in range(0, 32, 8)])
    for name, found in whole.fits.items():
        np.testing.assert_allclose(parts.fits[name].scale, found.scale, rtol=1e-6)
        np.testing.assert_allclose(parts.fits[name].offset, found.offset, atol=1e-6)


def test_fitted_chips_are_nearer_to_the_float_model() -> None:
    """On images that were not fitted on, in the mean over eight dice; five standard errors above no gain.

    The largest weights span the windows, so that the errors of devices are what there is to fit.
    """
    body, shape, constants = MODELS["two convolutions"]
    proto, known, new = model(body, shape, constants), images(shape, 256), images(shape, 256, seed=2)
    unclipped = {"weights.window": "largest", "weights.scale": "layer"}
    program = cimc.compile(proto, "bulk-rram", calibration=known, settings=unclipped)
    gains = []
    for seed in range(8):
        chip = cimc.Chip(program, seed)
        before = chip.sqnr(new)
        chip.fit_outputs(known)
        after = chip.sqnr(new)
        gains.append([(after[step] or 0) - (before[step] or 0) for step in before])
    mean, error = np.mean(gains, axis=0), np.std(gains, axis=0, ddof=1) / np.sqrt(len(gains))
    assert (mean > 5 * error).all()


def test_an_exact_chip_has_nothing_to_fit() -> None:
    """Random operators draw the same in the ideal execution, so that they are no error either."""
    text = """g (float[N, 1, 6, 6] x) => (float[N, 3] y) {
        f = Flatten (x)  e = RandomNormalLike (f)  h = Add (f, e)  y = MatMul (h, w) }"""
    proto = small.model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.random.default_rng(0).random((36, 3), np.float32), "w"))
    chip = cimc.Chip(cimc.compile(proto, "ideal"), 3)
    inputs = {"x": small.data(64)[0]}
    assert set(chip.sqnr(inputs).values()) == {None}
    assert [row.unchanged for row in chip.fit_outputs(inputs)] == [3]
    assert not chip.fits


def test_copies_are_fitted_together() -> None:
    program = cimc.compile(small.model(), "bulk-rram", calibration={"x": small.data(32)[0]}, copies={"Conv_0": 3})
    die = cimc.export_image(program).program(seed=2)
    known, new = {"x": small.data(256)[0]}, {"x": small.data(256, seed=5)[0]}
    before = die.sqnr(new)
    die.fit_outputs(known)
    after = die.sqnr(new)
    assert len(die.crossbars["Conv_0"].held) == 3
    assert all((after[step] or 0) > (before[step] or 0) for step in before)


def test_a_trained_chip_is_fitted_to_its_trained_weights(tmp_path: Path) -> None:
    """The oracle is ONNX Runtime on the trained weights, which are not those that the chip began with."""
    x, y = small.data(64)
    trainer = small.trainer(small.chip(), lr=0.05)
    for n in range(0, 64, 16):
        trainer.step(x[n : n + 16], y[n : n + 16])
    program = trainer.program()
    program.save(tmp_path / "trained.cim")
    chip, new = cimc.Chip(cimc.load(tmp_path / "trained.cim")), {"x": small.data(256, seed=5)[0]}
    expected = ort.InferenceSession(program.to_onnx().SerializeToString()).run(["y"], new)[0]
    before = sqnr_db(expected, chip.run(new, 0)["y"])
    chip.fit_outputs({"x": small.data(256)[0]})
    after = sqnr_db(expected, chip.run(new, 0)["y"])
    assert before is not None
    assert after is not None
    assert after > before + 1
    assert chip.memory.keys() == cimc.Chip(program).memory.keys()


def test_training_drops_a_fit_and_says_so() -> None:
    chip = small.chip()
    x, y = small.data(64)
    chip.fit_outputs({"x": x})
    trainer = small.trainer(chip)
    assert not chip.fits
    assert any("fitted" in note for note in trainer.notes)
    trainer.step(x[:16], y[:16])
    assert not cimc.Chip(trainer.program()).fits
    assert not trainer.program().provenance.fitted


def test_an_image_takes_the_fit_of_a_chip_that_is_read_back_alone() -> None:
    chip, x = small.chip(seed=2), {"x": small.data(128)[0]}
    plain = {
        word: array for word, array in cimc.export_image(chip).compiled.tensors.items() if word.startswith(("scale", "offset"))
    }
    chip.fit_outputs(x)
    target, readback = cimc.export_image(chip), cimc.export_image(chip, source="readback")
    for word, array in plain.items():
        np.testing.assert_array_equal(target.compiled.tensors[word], array)
    assert any("fitted" in note for note in describe(target)["notes"])
    assert any("fitted" in note for note in describe(readback)["notes"])
    # A die without further errors computes what the chip did, but for read noise: none here, as seeds and steps are the same.
    die = readback.program(seed=chip.seed, error_free=True)
    np.testing.assert_allclose(die.run(x, 0)["y"], chip.run(x, 0)["y"], rtol=1e-4, atol=1e-3)


def test_wrong_calls_are_told_in_words() -> None:
    chip = small.chip()
    with pytest.raises(cimc.CimcError, match="method is 'best'"):
        chip.fit_outputs({"x": small.data(8)[0]}, "best")  # type: ignore[arg-type]
    with pytest.raises(cimc.DataError, match="no data for input x"):
        chip.fit_outputs({})
    with pytest.raises(cimc.DataError, match="there are no inputs"):
        chip.fit_outputs([])
    with pytest.raises(cimc.DataError, match="must be a dict"):
        chip.fit_outputs(small.data(8)[0])  # type: ignore[arg-type]
