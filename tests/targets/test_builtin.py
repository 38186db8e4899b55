"""The built-in chips: complete sources, and figures that follow from published ones by another way than the file's."""

import math

import pytest

from cimc.targets.description import field_table, figures_of, unit_of
from cimc.targets.load import CHIPS, available_targets, load_target

#: Sections that are curves.
NU = ("device.drift.nu_mean", "device.drift.nu_sigma")
BUILT_IN = ["bulk-rram", "bulk-rram-256", "cmo-hfox", "hermes-pcm", "ideal", "isaac", "neurram"]


def test_the_chips_are_there():
    assert [name for name, origin in available_targets().items() if origin == "built in"] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_number_has_a_tagged_source(name):
    target = load_target(name)
    for path, value in figures_of(target).items():
        term = path.rpartition(".")[0] in ("device.read_noise.relative", "device.read_noise.absolute_us", *NU)
        if term and value == field_table()[path].default:
            continue  # a term that a curve does not have
        if isinstance(value, int | float | tuple) and not isinstance(value, bool):
            assert path in target.sources, f"{path} has no source"
    for path, source in target.sources.items():
        assert source.startswith(("[P] ", "[F] ", "[D] ", "[A] ")), f"{path}: {source}"


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n != "ideal"])
def test_a_stated_figure_names_its_paper(name):
    paper = {"isaac": "ISCA 2016", "hermes-pcm": "Le Gallo et al. 2023", "neurram": "Wan et al. 2022"}.get(
        name, "arXiv 2305.14547"
    )
    for path, source in load_target(name).sources.items():
        if source.startswith(("[P]", "[F]")):
            assert paper in source, path


def test_ideal_is_ideal_and_the_others_are_not():
    assert [name for name in BUILT_IN if load_target(name).is_ideal] == ["ideal"]
    assert not load_target("ideal", ["weights.clip_sigma=3"]).is_ideal


def test_bulk_rram_currents_at_the_read_voltage():
    chip = load_target("bulk-rram")
    device, volt = chip.device, chip.device.read_voltage_v
    assert device.g_min_us * volt == pytest.approx(0.82)
    assert device.g_max_us * volt == pytest.approx(3.29)
    assert device.read_sigma_us * volt == pytest.approx(0.16)
    assert device.programming.sigma_us * volt == pytest.approx(0.29)
    assert device.programming.mean_us * volt == pytest.approx(0.10)
    assert device.g_max_us / device.g_min_us == pytest.approx(4.0, rel=0.01)  # on/off ratio of 4 in the paper
    assert chip.array.tiles_per_chip * chip.array.rows * chip.array.columns == 16 * 1024  # 16 kb


def test_bulk_rram_timing_gives_the_papers_lenet_row():
    timing = load_target("bulk-rram").timing
    # 24x24 positions of conv1, 8x8 of conv2 on two slices, one of the dense layer on three: the paper's 641 ops, 707 tile ops
    conv1, conv2, dense = 24 * 24, 8 * 8, 1
    ops, tile_ops = conv1 + conv2 + dense, conv1 + 2 * conv2 + 3 * dense
    assert (ops, tile_ops) == (641, 707)
    assert round(ops * timing.tile_op_ns * 1e-6, 2) == 0.46  # ms
    assert round(conv1 * timing.tile_op_ns * 1e-6, 2) == 0.41 or math.isclose(conv1 * timing.tile_op_ns * 1e-6, 0.41472)
    assert round(tile_ops * timing.tile_op_energy_nj * 1e-3, 1) == 1.9  # µJ


def test_bulk_rram_timing_gives_the_papers_peak_efficiency():
    # 64x64 devices, 2 operations a MAC: 3.08 TOPS/W
    assert 2 * 64 * 64 / load_target("bulk-rram").timing.tile_op_energy_nj * 1e-3 == pytest.approx(3.08, abs=0.005)


def test_bulk_rram_256_noise_in_levels_and_lsb():
    chip = load_target("bulk-rram-256")
    device, volt = chip.device, chip.device.read_voltage_v
    level_ua = (device.g_max_us - device.g_min_us) / (device.levels - 1) * volt
    assert level_ua == pytest.approx(0.4)
    assert device.read_sigma_us * volt == pytest.approx(0.3 * level_ua)
    assert device.programming.sigma_us * volt == pytest.approx(0.5 * level_ua)
    assert chip.adc.sigma_lsb * chip.adc.range_ua / (2**chip.adc.bits - 1) == pytest.approx(0.549, abs=5e-4)
    # every row at full input and conductance, as against the range of 70 µA
    assert chip.array.rows * device.g_max_us * volt == pytest.approx(1792)
    assert chip.dac == load_target("bulk-rram").dac  # by extends


def test_isaac_sums_fit_its_converter():
    chip = load_target("isaac")
    levels, rows = chip.device.levels, chip.array.rows
    assert levels**chip.weights.cells == 2**chip.weights.bits
    # one-bit inputs: a full column sums to 128 * 3, 9 bits; at most half of it after the flip, 8 bits
    assert (rows * (levels - 1)).bit_length() == 9
    assert (rows * (levels - 1) // 2).bit_length() == chip.adc.bits == 8
    # the current of devices at g_min stays below half a level step, so rounding takes it off
    step = (chip.device.g_max_us - chip.device.g_min_us) / (levels - 1)
    assert rows * chip.device.g_min_us / step < 0.5


def test_isaac_timing_from_converter_rate_and_power():
    chip = load_target("isaac")
    phases, ghz = chip.dac.bits, 1.28
    assert chip.timing.tile_op_ns == pytest.approx(phases * chip.array.columns / ghz)
    # eight ADCs of 2 mW take two thirds of an IMA's power
    adc_nj = 2e-3 * chip.timing.tile_op_ns
    assert 0.6 < adc_nj / chip.timing.tile_op_energy_nj < 0.7


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_word_in_a_source_speaks_of_its_making(name):
    text = (CHIPS / f"{name}.yaml").read_text("utf-8").lower()
    assert "todo" not in text
    assert "/work" not in text


def test_every_field_is_documented_and_units_stand_in_the_names():
    for path, field in field_table().items():
        assert field.description, path
    units = {"array.rows": "", "device.g_min_us": "µS", "adc.range_ua": "µA", "device.read_voltage_v": "V"}
    units |= {"timing.tile_op_ns": "ns", "timing.tile_op_energy_nj": "nJ", "adc.sigma_lsb": "LSB", "dac.bits": "bit"}
    assert {path: unit_of(path) for path in units} == units


@pytest.mark.parametrize(
    ("x", "nu", "sigma", "q"),
    [(0.05, 0.0977334, 0.0293501, 0.0281501), (0.2, 0.069336, 0.0131305, 0.0154552), (1.0, 0.0174, 0.0048, 0.0123)],
)
def test_hermes_drift_and_noise_on_both_sides_of_the_fits_limits(x, nu, sigma, q):
    """By hand from the published coefficients: -0.0387 ln x - 0.0182 below x = 0.0945, a polynomial from there on; and so on."""
    device = load_target("hermes-pcm").device
    assert device.drift.nu_mean.at(x) == pytest.approx(nu, abs=2e-6)
    assert device.drift.nu_sigma.at(x) == pytest.approx(sigma, abs=2e-6)
    assert device.read_noise.relative.at(x) == pytest.approx(q, abs=2e-6)


def test_hermes_products_take_the_time_and_energy_of_the_published_throughput():
    chip = load_target("hermes-pcm")
    operations = 2 * chip.array.rows * chip.array.columns / 2 * chip.array.tiles_per_chip
    assert operations / (2 * chip.timing.tile_op_ns * 1e-9) == pytest.approx(16.1e12, rel=0.01)
    energy_nj = 2 * chip.timing.tile_op_energy_nj * chip.array.tiles_per_chip
    assert operations / (energy_nj * 1e-9) == pytest.approx(2.48e12, rel=0.01)


def test_cmo_read_noise_is_that_of_its_decimal_logarithm():
    g, age = 50.0, 1e4
    sigma = 0.0277316483 * math.log10(g) * math.sqrt(math.log((age + 1e-6) / 2e-6))
    assert load_target("cmo-hfox").device.read_noise.variance_us2(g, g, age) == pytest.approx(sigma**2, rel=1e-5)


@pytest.mark.parametrize("x", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_neurram_spreads_as_the_fits_at_their_times(x):
    """Values of the published fits at 1 s and 1 day, in µS; at 2 days the line in ln t is at most 8 % off the fit."""
    device = load_target("neurram").device
    at_1s = {0.0: 0.348, 0.25: 2.258, 0.5: 2.023, 0.75: 1.533, 1.0: 1.103}[x]
    at_1d = {0.0: 0.701, 0.25: 3.721, 0.5: 3.909, 0.75: 3.367, 1.0: 2.651}[x]
    assert device.programming.error_us(40 * x)[1] == pytest.approx(at_1s, abs=1e-3)

    def spread(seconds):
        terms = zip(device.drift.sigma_us, device.drift.sigma_growth_us, strict=True)
        return sum((a + b * math.log(seconds)) * x**n for n, (a, b) in enumerate(terms))

    assert spread(86400) == pytest.approx(at_1d, abs=2e-3)
    at_2d = 0.782 + 20.274 * x - 43.507 * x**2 + 37.062 * x**3 - 11.934 * x**4
    assert spread(2 * 86400) == pytest.approx(at_2d, rel=0.08)
