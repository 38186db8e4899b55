"""Fits of programming error and read noise, against hidden parameters that the data were drawn with."""

from __future__ import annotations

from contextlib import suppress
from json import dumps

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyval
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

import cimc
from cimc.characterisation.cells import Cells
from cimc.characterisation.normal_fit import Linear
from cimc.characterisation.uncertainty import figures, share_interval, t_quantile
from cimc.characterisation.vocabulary import TABLES
from cimc.errors import CimcError, DataError
from cimc.targets.load import load_target
from tests.characterisation.measured import NEURRAM, csv, programming, reads
from tests.cli.conftest import cimc as command


def neurram(goal_us):
    return polyval(goal_us / 40, NEURRAM)


def test_quantiles_and_shares_are_those_of_the_textbook():
    for degrees in (7, 11, 30, 200):
        assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=5e-4)
    for hits, devices in ((0, 20), (3, 40), (20, 20)):
        found = share_interval(hits, devices)
        expected = stats.binomtest(hits, devices).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.more_devices == 3 * devices


@pytest.mark.parametrize("devices", [12, 60])
def test_intervals_cover_the_hidden_parameters(devices):
    """Of 80 trials, 95 % are covered for each of 4 figures, within 4 standard errors of a share."""
    random, trials = np.random.default_rng(devices), 80
    x = np.linspace(0.1, 1, 6)
    design = np.vander(x, 2, increasing=True)
    form = Linear("linear", design, design, np.full(x.size, 0.1**2))
    hidden = np.array([0.2, -0.4, 0.5, 1.5])
    covered = np.zeros(4)
    for trial in range(trials):
        error = design @ hidden[:2] + np.hypot(design @ hidden[2:], 0.1) * random.standard_normal((devices, x.size))
        cells = Cells(np.ones_like(error), error, error**2)
        _, intervals = figures(form, cells, devices, trial, lambda values: values)
        covered += [one.low <= value <= one.high for one, value in zip(intervals, hidden, strict=True)]
    least = 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)
    assert (covered / trials > least).all()
    assert covered.mean() < trials


def test_a_fit_finds_the_form_and_covers_the_error_at_each_goal(tmp_path):
    random, trials, hits, wide = np.random.default_rng(1), 8, [], []
    for trial in range(trials):
        fit = cimc.fit_device(
            [
                programming(tmp_path / "p.csv", random, neurram, read_us=0.3),
                reads(tmp_path / "r.csv", random, lambda g: np.full(g.shape, 0.3)),
            ],
            seed=trial,
        )
        assert fit.section["programming"]["kind"] == "polynomial"
        assert fit.section["read_noise"] is None
        for goal in (1.0, 10.75, 20.5, 40.0):
            one = fit.intervals[f"programming error at {goal:.4g} µS, deviation"]
            hits.append(one.low <= neurram(goal) <= one.high)
            wide.append((one.high - one.low) / neurram(goal))
        one = fit.intervals["device.read_sigma_us"]
        hits.append(one.low <= 0.3 <= one.high)
        assert abs(fit.residuals["programming error"].std() - 1) < 5 / np.sqrt(2 * 540)
    assert np.mean(hits) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / len(hits))
    assert max(wide) < 1.0


def test_a_constant_error_is_gaussian_and_the_saturating_one_is_found(tmp_path):
    random = np.random.default_rng(2)
    fit = cimc.fit_device(programming(tmp_path / "p.csv", random, lambda g: np.full(g.shape, 2.0), mean_us=1.0, devices=200))
    error = fit.section["programming"]
    mean, sigma = load_target("ideal", fit.figures).device.programming.error_us([1.0, 20.0, 40.0])
    assert error["kind"] in ("gaussian", "polynomial")
    np.testing.assert_allclose(mean, 1.0, atol=5 * 2 / np.sqrt(200))
    np.testing.assert_allclose(sigma, 2.0, atol=5 * 2 / np.sqrt(400))
    goals = np.geomspace(0.5, 40, 10)
    fit = cimc.fit_device(
        programming(tmp_path / "p.csv", random, lambda g: -1.5 * np.expm1(-g / 2.0), goals_us=goals, devices=200)
    )
    assert fit.section["programming"]["kind"] == "saturating"
    for path, value in (("limit_us", 1.5), ("knee", 2.0 / 40)):
        one = fit.intervals[f"device.programming.{path}"]
        half = (one.high - one.low) / 2
        assert abs(one.value - value) < 2 * half  # twice the 95 % interval


def test_an_error_that_no_formula_fits_becomes_a_table(tmp_path):
    random = np.random.default_rng(3)

    def skewed(count):
        return random.exponential(size=count) - 1

    fit = cimc.fit_device(programming(tmp_path / "p.csv", random, lambda g: 0.5 + g / 20, noise=skewed, devices=150))
    section = load_target("ideal", fit.figures).device.programming
    assert section.kind == "table"
    shares = np.array([0.1, 0.5, 0.9])
    for goal in (1.0, 20.5, 40.0):
        scale = 0.5 + goal / 20
        expected = scale * (stats.expon.ppf(shares) - 1)
        deviation = scale * np.sqrt(shares * (1 - shares) / 150) / stats.expon.pdf(stats.expon.ppf(shares))
        assert (np.abs(section.quantile_us(np.full(3, goal), shares) - expected) < 5 * deviation).all()
    normal = cimc.fit_device(programming(tmp_path / "p.csv", random, lambda g: 0.5 + g / 20, devices=150))
    assert normal.section["programming"]["kind"] == "polynomial"


def test_read_noise_that_follows_the_conductance_becomes_a_table(tmp_path):
    random = np.random.default_rng(4)
    fit = cimc.fit_device(reads(tmp_path / "r.csv", random, lambda g: 0.1 + 0.02 * g, devices=80))
    assert fit.section["read_sigma_us"] == 0
    noise = load_target("ideal", fit.figures).device.read_noise
    goals = np.array([1.0, 20.0, 40.0])
    np.testing.assert_allclose(np.sqrt(noise.variance_us2(goals, goals, 0.0)), 0.1 + 0.02 * goals, rtol=0.2)
    assert not fit.found


def test_what_no_kind_models_is_told_with_its_figure(tmp_path):
    random = np.random.default_rng(5)
    fit = cimc.fit_device(reads(tmp_path / "r.csv", random, lambda g: np.full(g.shape, 0.2), slow_us=0.6))
    assert len(fit.found) == 1
    assert "several reads" in fit.found[0]
    one = fit.intervals["device.read_sigma_us"]  # ten reads share a level: every tenth difference holds the slow noise
    assert one.value < 0.6
    goal = np.tile(np.linspace(1, 40, 9), 100)
    device = np.repeat(np.arange(100), 9)
    rows, columns = np.divmod(device, 10)
    own = np.repeat(random.standard_normal(100), 9)
    word_line = np.repeat(random.standard_normal(10), 10)[device]
    error = own + 1.5 * word_line + random.standard_normal(900)
    path = csv(tmp_path / "p.csv", device=device, row=rows, column=columns, goal_us=goal, read_us=goal + error)
    found = cimc.fit_device(path).found
    assert any("repeats" in text for text in found)
    assert any("on a word line correlate" in text for text in found)
    assert not any("on a bit line" in text for text in found)


def test_stuck_devices_are_counted_and_left_out_of_the_error(tmp_path):
    random = np.random.default_rng(6)
    goal, device = np.tile(np.linspace(1, 40, 9), 200), np.repeat(np.arange(200), 9)
    read = goal + 0.8 * random.standard_normal(goal.size)
    read = np.where(device < 10, 1.0, np.where(device < 13, 40.0, read)) + 0.1 * random.standard_normal(goal.size)
    fit = cimc.fit_device(csv(tmp_path / "p.csv", device=device, goal_us=goal, read_us=read))
    assert fit.section["stuck_low_rate"] == pytest.approx(10 / 200)
    assert fit.section["stuck_high_rate"] == pytest.approx(3 / 200)
    assert "13 of 200 devices stuck" in fit.sources["device.stuck_low_rate"]
    _, sigma = load_target("ideal", fit.figures).device.programming.error_us([20.0])
    assert sigma[0] == pytest.approx(np.hypot(0.8, 0.1), rel=0.1)


def test_a_fitted_target_has_the_error_of_a_product_that_held_out_devices_have(tmp_path):
    """A column of 32 devices, written to one goal each and driven with one input."""
    random = np.random.default_rng(7)
    path = tmp_path / "mine.yaml"
    cimc.fit_device(programming(tmp_path / "p.csv", random, neurram, devices=100)).to_yaml(path)
    w = random.uniform(0.05, 1, (32, 64)).astype(np.float32)
    w[0] = 1  # spans the window
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])], [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random.uniform(0, 1, (1, 32)).astype(np.float32)
    program = cimc.compile(onnx_model, target=str(path))
    errors = np.concatenate([x @ (cimc.Chip(program, seed=seed).weights()[program.layers[0].name] - w) for seed in range(40)])
    goals = 1 + 39 * w.astype(np.float64)
    held_out = neurram(goals) * random.standard_normal((400, *goals.shape)) - neurram(np.float64(1)) * random.standard_normal(
        (400, *goals.shape)
    )  # the device of each weight, and its empty partner at g_min
    expected = np.einsum("r,nrc->nc", x[0].astype(np.float64), held_out) / 39
    ratio = errors.std() / expected.std()
    # 40 x 64 errors, and deviations of a fit to 100 devices at 9 goals; cuts at 0 of partners at g_min = 1 µS take off a little.
    assert abs(ratio - 1) < 5 * np.sqrt(1 / (2 * 2560) + 1 / (2 * 900))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device,goal_us,read_us\n" + "".join(f"{d},{g},{g}\n" for d in range(3) for g in range(30)), "3 devices are too few"),
        (
            "device,goal_us,read_us\n" + "".join(f"{d},1,1\n" for d in range(10)),
            "10 records are too few for a fit\n  try: measure 40",
        ),
        ("device,time_s,read_us\na,0,1\na,1,1\n", "0 devices with 4 reads or more are too few for a fit\n  try: measure 8"),
    ],
)
def test_too_few_data_are_refused_with_the_number_needed(tmp_path, text, words):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError) as error:
        cimc.fit_device(tmp_path / "m.csv")
    assert words in str(error.value)
    assert "m.csv" in str(error.value)


def test_data_without_any_spread_are_fitted(tmp_path):
    rows = "".join(f"{d},{g},{g}\n" for d in range(10) for g in range(10))
    (tmp_path / "m.csv").write_text("device,goal_us,read_us\n" + rows)
    fit = cimc.fit_device(str(tmp_path / "m.csv"))
    mean, sigma = load_target("ideal", fit.figures).device.programming.error_us([0.0, 9.0])
    np.testing.assert_allclose([mean, sigma], 0, atol=1e-9)


def test_command_writes_a_target_with_sources(tmp_path):
    random = np.random.default_rng(8)
    data = programming(tmp_path / "p.csv", random, neurram)
    mine = tmp_path / "mine.yaml"
    done = command("device", "fit", data, "-o", mine, "--extends", "bulk-rram", "--json")
    assert done.code == 0, done.err
    target = load_target(mine)
    assert target.sources["device.programming.kind"] == "[D] fit to p.csv, 540 rows, 60 devices"
    assert target.device.g_max_us == 40
    assert "device.levels" in done.json["inherited"]
    assert target.array == load_target("bulk-rram").array
    assert command("targets", "validate", mine).code == 0
    told = command("device", "fit", data, "-o", tmp_path / "other.yaml", "--extends", mine)
    assert "not measured" in told.err
    assert "no file of reads" in told.err
    assert load_target(tmp_path / "other.yaml").device.programming == target.device.programming
    assert command("device", "fit", data, "-o", data).code == 2
    assert "mine.yaml" in command("device", "fit", data, "-o", tmp_path / "mine.txt").err
    assert data.read_text().startswith("device,")
    assert not (tmp_path / "no.yaml").exists()
    assert command("device", "fit", data, "-o", tmp_path / "no.yaml", "--extends", "none-such").code == 2
    assert not (tmp_path / "no.yaml").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(12))
def test_any_numbers_make_a_target_or_are_refused(tmp_path, seed):
    """Constant, discrete, tiny and huge values in all files at once."""
    random, count = np.random.default_rng(seed), 120

    def values():
        kinds = (np.zeros(count), np.full(count, 7.0), 10.0 * random.integers(0, 3, count), 10 ** random.uniform(-9, 8, count))
        return (*kinds, *3 * [random.uniform(0, 50, count)])[random.integers(7)]

    files = []
    for table in TABLES.values():
        columns = {c.name: values() for c in table.columns if c.needed or random.random() < 0.3}
        columns["device"] = random.integers(0, 12, count)
        if "polarity" in columns:
            columns["polarity"] = random.choice([1, -1], count)
        if "goal_us" in columns and seed % 2:
            columns["read_us"] = columns["goal_us"] + random.standard_normal(count)
        if "after_us" in columns and seed % 3:
            columns["after_us"] = columns["before_us"] + columns["polarity"] * random.uniform(0, 2, count)
        files.append(csv(tmp_path / f"{table.name}.csv", **columns))
    for file in files:
        with suppress(DataError):
            cimc.fit_device(file, seed=seed).to_yaml(tmp_path / f"{file.stem}.yaml")
            load_target(tmp_path / f"{file.stem}.yaml")
            dumps(cimc.fit_device(file, seed=seed).to_dict(), allow_nan=False)


def test_pulses_of_the_wrong_sign_are_refused(tmp_path):
    device, number = np.divmod(np.arange(400), 40)
    columns = {
        "device": device,
        "pulse": number,
        "polarity": np.ones(400, int),
        "before_us": 40.0 - number,
        "after_us": 39.0 - number,
    }
    with pytest.raises(DataError, match="check the column polarity") as error:
        cimc.fit_device(csv(tmp_path / "pulses.csv", **columns))
    assert "up pulses move conductances by -1 µS" in str(error.value)


def test_read_noise_that_explains_all_leaves_no_programming_error(tmp_path):
    random = np.random.default_rng(9)
    data = [
        programming(tmp_path / "p.csv", random, lambda g: np.zeros(g.shape), read_us=0.5, goals_us=[10.0, 20.0]),
        reads(tmp_path / "r.csv", random, lambda g: np.full(g.shape, 0.5)),
    ]
    _, sigma = load_target("ideal", cimc.fit_device(data).figures).device.programming.error_us([10.0, 20.0])
    assert (sigma >= 0).all()
    assert (sigma < 0.5 * (4 / 120) ** 0.25 * 2).all()  # the variance is known to about 0.25 times the root of 4 / 120


def test_without_a_window_it_is_told(tmp_path):
    fit = cimc.fit_device(reads(tmp_path / "r.csv", np.random.default_rng(1), lambda g: np.full(g.shape, 0.5)))
    with pytest.raises(CimcError, match="name"):
        fit.to_yaml(tmp_path / "mine.yaml", name="two words: no name")
    assert not (tmp_path / "mine.yaml").exists()
    assert "g_min_us and g_max_us are those of the target that is extended" in " ".join(fit.notes)
