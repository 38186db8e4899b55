"""Device presets: chosen by files and settings, and devices drawn from them have the published statistics."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from cimc.errors import TargetError
from cimc.runtime.devices import Memristor, State, device_keys
from cimc.targets.description import figures_of
from cimc.targets.load import load_target
from cimc.targets.presets import available_presets
from tests.cli.conftest import cimc

N = 40_000
DAY_S = 86400.0


def devices(preset: str, written_us: float = 0.0) -> tuple[Memristor, State]:
    """Many devices of a preset that hold one conductance."""
    model = Memristor(load_target("ideal", {"device.preset": preset}).device)
    g_us = np.full(N, written_us, np.float32)
    cells = device_keys(1, np.arange(N), np.zeros(N, np.uint32))
    return model, State(g_us, lambda: cells, model.arrays(g_us, 0.0))


def written(preset: str, goal_us: float, age_s: float = 0.0) -> np.ndarray:
    """What devices hold so long after a write to one goal."""
    model, state = devices(preset)
    keys = device_keys(2, np.arange(N), np.zeros(N, np.uint32))
    model.write(state, np.arange(N), np.full(N, goal_us, np.float32), 0.0, keys)
    return np.asarray(model.conductance(state, age_s), np.float64)


def assert_spread(values: np.ndarray, sigma: float, mean: float | None = None) -> None:
    assert abs(values.std() - sigma) < 5 * sigma / np.sqrt(2 * N) + 1e-6
    if mean is not None:
        assert abs(values.mean() - mean) < 5 * sigma / np.sqrt(N) + 1e-5


#: Goal in µS and deviation in µS, from the published formulas.
PROGRAMMING = [
    ("neurram", 20.0, 0.348 + 16.030 * 0.5 - 43.853 * 0.25 + 45.393 * 0.125 - 16.815 * 0.0625),
    ("neurram", 40.0, 1.103),
    ("hermes-pcm", 10.35, 0.16603 + 4.71807 * 0.5 - 8.48101 * 0.25 + 4.68961 * 0.125),
    ("cmo-hfox", 50.0, 0.0112185 + 0.0112903 * 50),
    ("pcm-joshi", 12.5, 0.26348 + 1.9650 * 0.5 - 1.1731 * 0.25),
    ("rram-milo", 50.0, 4.782321 - 0.009107 * 50),
    ("rram-milo", 225.0, 4.782321 - 0.009107 * 225),
    ("sonos", 8.0, 0.1988665 * (1 - np.exp(-800 / 176.3115))),
    ("sonos", 1.0, 0.1988665 * (1 - np.exp(-100 / 176.3115))),
]


@pytest.mark.parametrize(("preset", "goal_us", "sigma_us"), PROGRAMMING)
def test_programming_error_is_the_published_one(preset, goal_us, sigma_us):
    assert_spread(written(preset, goal_us), sigma_us, goal_us)


@pytest.mark.parametrize(("goal_us", "sigma_us"), [(10.0, 3.721), (20.0, 3.909), (30.0, 3.367), (40.0, 2.651)])
def test_neurram_relaxes_to_the_spread_that_was_measured_after_a_day(goal_us, sigma_us):
    held = written("neurram", goal_us, DAY_S)
    assert abs(held.std() - sigma_us) < 5 * sigma_us / np.sqrt(2 * N) + 0.001  # the figures have three decimals


def test_cmo_hfox_relaxes_with_the_logarithm_of_time():
    error, growth = np.hypot(0.0112185 + 0.0112903 * 50, 0.04201137 * np.log(3600) + 0.41183342), np.log(3600)
    assert_spread(written("cmo-hfox", 50.0, 3600.0), error, 50 - 0.08900206 * growth)


@pytest.mark.parametrize(
    ("preset", "goal_us", "nu", "spread", "t0_s"),
    [
        ("pcm-joshi", 12.5, 0.049, 0.008, 20),  # both clamped: -0.0155 ln x + 0.0244 and -0.0125 ln x - 0.0059 lie below
        ("pcm-joshi", 2.5, 0.0244 + 0.0155 * np.log(10), 0.0125 * np.log(10) - 0.0059, 20),
        ("hermes-pcm", 10.35, -0.0436 * 0.25 - 0.0126 * 0.5 + 0.0736, -0.0118 * 0.25 + 0.0093 * 0.5 + 0.0073, 300),
    ],
)
def test_phase_change_memory_drifts_with_the_published_exponents(preset, goal_us, nu, spread, t0_s):
    model, state = devices(preset, goal_us)
    ratio = np.asarray(model.conductance(state, 1e4 * t0_s), np.float64) / goal_us
    assert_spread(-np.log(ratio) / np.log(1e4), spread, nu)


@pytest.mark.parametrize(
    ("preset", "g_us", "age_s", "sigma_us"),
    [
        ("pcm-joshi", 12.5, 3600.0, 12.5 * min(0.0088 / 0.5**0.65, 0.2) * np.sqrt(np.log((3600 + 2.5e-7) / 5e-7))),
        ("cmo-hfox", 50.0, 3600.0, 0.0277316483 * np.log10(50) * np.sqrt(np.log((3600 + 1e-6) / 2e-6))),
        ("sonos", 7.0, 0.0, 0.1258037 * (1 - np.exp(-700 / 215.36557))),
        ("sonos", 0.7, 0.0, 0.1258037 * (1 - np.exp(-70 / 215.36557))),
    ],
)
def test_read_noise_is_the_published_one(preset, g_us, age_s, sigma_us):
    noise = load_target("ideal", [f"device.preset={preset}"]).device.read_noise
    assert np.sqrt(noise.variance_us2(g_us, g_us, age_s)) == pytest.approx(sigma_us, rel=0.02 if preset == "sonos" else 1e-6)


@pytest.mark.parametrize(
    ("preset", "weight", "low", "high", "step", "cycle", "spread"),
    [
        ("reram-sb", 0.0, -0.75, 1.25, 0.002, 3.75, 0.3),
        ("reram-om", 0.0, -1.0, 1.0, 0.0949, 0.416, 0.783),
        ("reram-hfo2", -0.5, -1.0, 1.0, 0.4622, 0.217, 0.7125),
    ],
)
def test_blind_pulses_have_the_published_steps(preset, weight, low, high, step, cycle, spread):
    """Soft bounds: dw = dw_min (high - w) / high up, dw_min (low - w) / low down, of devices and pulses that differ."""
    model, state = devices(preset, weight - low)
    keys = device_keys(3, np.arange(N), np.zeros(N, np.uint32))
    before = state.g_us.copy()
    for up, bound in ((True, high), (False, low)):
        state.g_us[:] = before
        model.pulse(state, np.arange(N), np.full(N, up), 0.0, keys)
        moved = state.g_us.astype(np.float64) - before
        expected = step * (bound - weight) / bound * (1 if up else -1)
        factor = np.maximum(1 + spread * np.random.default_rng(0).standard_normal(400_000), 0)
        inside = np.abs(moved) < 0.999 * min(abs(high - weight), abs(weight - low))
        if inside.all():
            deviation = abs(expected) * np.sqrt((factor**2).mean() * (1 + cycle**2) - factor.mean() ** 2)
            assert abs(moved.mean() - expected * factor.mean()) < 5 * deviation / np.sqrt(N) + 0.005 * abs(expected)
            assert moved.std() == pytest.approx(deviation, rel=0.05)
        else:  # large steps reach an end; the middle of the distribution does not
            assert np.median(moved) == pytest.approx(expected, rel=0.05)


def test_every_preset_has_sources_and_names_its_paper():
    assert len(available_presets()) == 9
    for name, path in available_presets().items():
        text = path.read_text("utf-8")
        assert "doi 10." in text or "DRC 2024" in text
        assert set(yaml.safe_load(text)) == {"name", "description", "device"}
        target = load_target("ideal", {"device.preset": name})
        for figure, value in figures_of(target).items():
            if figure.startswith("device.") and figure in target.sources:
                assert target.sources[figure][:4] in ("[P] ", "[F] ", "[D] ", "[A] "), (figure, value)


def test_a_preset_replaces_the_whole_device_of_the_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: bulk-rram\ndevice:\n  preset: rram-milo\n  levels: {value: 8, source: mine}\n")
    target = load_target(path)
    assert (target.device.g_max_us, target.device.levels) == (225, 8)
    assert target.device.born_us is None  # bulk-rram states one
    assert target.array == load_target("bulk-rram").array
    assert "Milo" in target.sources["device.programming.sigma_coefficients_us"]
    assert "timing.tile_op_ns" in target.stated_for  # a time of other devices stands for none
    own = tmp_path / "chip.yaml"
    own.write_text("extends: isaac\ndevice: {preset: ./mine.yaml}\n")
    assert load_target(own).device == target.device
    assert load_target("ideal", ["device.preset=neurram", "device.read_sigma_us=0.5"]).device.read_sigma_us == 0.5
    nested = load_target("ideal", {"device": {"preset": "neurram", "read_sigma_us": 0.5}})
    assert nested == load_target("ideal", {"device.preset": "neurram", "device.read_sigma_us": 0.5})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device: {preset: neuram}", "no preset 'neuram'\n  try: neurram"),
        ("device: {preset: 3}", "a name or a path, not 3"),
        ("device: {preset: ./none.yaml}", "no file"),
        ("device: {preset: ./mine.yaml}", "extends itself"),
    ],
)
def test_wrong_presets_are_told(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: ideal\n{text}\n")
    with pytest.raises(TargetError) as error:
        load_target(path)
    assert words in str(error.value)


def test_wrong_settings_of_a_preset_are_told():
    for settings in (["device.preset=none-such"], {"device.preset": 3}, ["device.preset="]):
        with pytest.raises(TargetError, match="preset"):
            load_target("ideal", settings)


def test_the_command_lists_them():
    rows = cimc("device", "presets", "--json").json["presets"]
    assert [row["name"] for row in rows] == list(available_presets())
    assert all(len(row["description"]) > 20 for row in rows)
    assert cimc("targets", "show", "ideal", "--set", "device.preset=sonos").code == 0
