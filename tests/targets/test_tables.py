"""Tables of measured errors and read noise: interpolation, stated moments, and what a chip draws from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cimc.errors import TargetError
from cimc.runtime.devices import device_keys
from cimc.runtime.devices.parts import programming_model
from cimc.runtime.devices.programming import DrawnQuantile
from cimc.targets.load import load_target
from cimc.targets.table_sections import TableNoise, TableProgramming
from cimc.testing import check_programming, check_read_noise

SHARES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
#: Skewed at 10 µS, wide at 50 µS.
TABLE = {
    "goals_us": (10.0, 50.0),
    "shares": SHARES,
    "quantiles_us": ((-1.0, -0.5, -0.3, -0.2, 0.1, 1.5, 2.0), (-9.0, -5.0, -2.0, 0.0, 2.0, 5.0, 9.0)),
}
FILE = {"device.programming.kind": "table"} | {f"device.programming.{name}": value for name, value in TABLE.items()}


class Drawn(DrawnQuantile):
    Section = TableProgramming


def test_contracts():
    check_programming(Drawn, TABLE)
    check_read_noise(TableNoise, {"g_us": [0, 10, 50], "sigma_us": [0.1, 0.3, 0.2]})


@pytest.mark.parametrize("goal_us", [0.0, 10.0, 30.0, 50.0, 80.0])
def test_draws_follow_the_interpolated_quantiles(goal_us):
    count = 20_000
    section = TableProgramming(**TABLE)
    keys = device_keys(1, np.arange(count), np.zeros(count, np.uint32))
    goals = np.full(count, goal_us, np.float32)
    error = programming_model(section).write(goals, keys).astype(np.float64) - goal_us
    part = np.clip((goal_us - 10) / 40, 0, 1)
    row = (1 - part) * np.array(TABLE["quantiles_us"][0]) + part * np.array(TABLE["quantiles_us"][1])
    expected = stats.kstest(np.maximum(error, -goal_us), lambda e: np.interp(e, row, SHARES))
    if goal_us + row[0] >= 0:  # else some are cut at 0
        assert expected.pvalue > 1e-4
        assert row[0] - 1e-5 <= error.min() <= error.max() <= row[-1] + 1e-5


@given(st.lists(st.floats(0, 60), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_stated_moments_are_those_of_the_quantile_function(goals):
    section = TableProgramming(**TABLE)
    mean, sigma = section.error_us(goals)
    shares = (np.arange(20_000) + 0.5) / 20_000
    for n, goal in enumerate(goals):
        error = section.quantile_us(np.full(shares.size, goal), shares)
        assert mean[n] == pytest.approx(error.mean(), abs=1e-3)
        assert sigma[n] == pytest.approx(error.std(), abs=1e-3)


def test_read_noise_is_interpolated_and_not_extrapolated():
    noise = TableNoise(g_us=(10.0, 20.0), sigma_us=(0.1, 0.3))
    np.testing.assert_allclose(np.sqrt(noise.variance_us2([0, 10, 15, 20, 99], 5.0, 0.0)), [0.1, 0.1, 0.2, 0.3, 0.3])


def test_a_chip_file_may_hold_tables(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: bulk-rram\ndevice:\n  programming:\n    kind: table\n    goals_us: {value: [8, 33], source: lab}\n"
        "    shares: [0, 0.5, 1]\n    quantiles_us: [[-1, 0, 1], [-2, 0, 3]]\n"
        "  read_noise: {kind: table, g_us: [8, 33], sigma_us: [0.5, 1]}\n"
    )
    target = load_target(path)
    assert target.device.programming.quantiles_us == ((-1, 0, 1), (-2, 0, 3))
    assert load_target(target) == target
    assert load_target("bulk-rram", FILE).device.programming == TableProgramming(**TABLE)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"goals_us": [10, 10]}, "goals_us must rise"),
        ({"shares": [0, 0.5, 0.4, 0.5, 0.7, 0.9, 1]}, "shares must rise"),
        ({"shares": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1]}, "begin with 0 and end with 1"),
        ({"quantiles_us": [[0] * 7]}, "one for each of 2 goals"),
        ({"quantiles_us": [[0] * 7, [0] * 6]}, "one for each of 7 shares"),
        ({"quantiles_us": [[0, 1, 0, 2, 3, 4, 5], [0] * 7]}, "must not fall"),
        ({"quantiles_us": [[-1e12, 1, 1, 2, 3, 4, 5], [0] * 7]}, "must lie between"),
        ({"goals_us": [-1, 5]}, "goals_us must lie"),
    ],
)
def test_tables_that_are_none_are_refused(changed, words):
    with pytest.raises(TargetError, match=words):
        load_target("bulk-rram", FILE | {f"device.programming.{name}": value for name, value in changed.items()})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"g_us": [2, 1], "sigma_us": [1, 1]}, "g_us must rise"),
        ({"g_us": [1, 2], "sigma_us": [1]}, "it needs one for each"),
        ({"g_us": [1, 2], "sigma_us": [1, -1]}, "sigma_us must lie"),
    ],
)
def test_read_noise_tables_that_are_none_are_refused(fields, words):
    noise = {f"device.read_noise.{name}": value for name, value in ({"kind": "table"} | fields).items()}
    with pytest.raises(TargetError, match=words):
        load_target("bulk-rram", noise)
