"""Backends: the contract, the reads that converters may do, and what NumPy and compiled code have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cimc import Chip, CimcError, export_image
from cimc.compiler import compile_model
from cimc.errors import FitError, TargetError
from cimc.ir.program import Program
from cimc.runtime.backends.cpu import Cpu
from cimc.runtime.backends.reference import Reference
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.read_spec import ReadSpec
from cimc.targets.description import Target
from cimc.targets.load import load_target
from cimc.testing import check_backend
from tests.runtime.crossbars import PAIR, crossbar, dense, target

EXAMPLES = Path(__file__).parents[2] / "examples"
LENET = EXAMPLES / "lenet_mnist" / "lenet.onnx"
QUIET = {"adc": {"bits": 16}, "device": {"levels": None}, "dac": {"bits": 12}}


@pytest.mark.parametrize("backend", [Cpu(), Reference()], ids=lambda made: made.name)
def test_a_backend_reads_as_the_reference_does(backend: Any) -> None:
    check_backend(backend)


def test_the_contract_finds_a_backend_that_forgets_noise() -> None:
    class Quiet(Reference):
        def prepare(self, spec: ReadSpec, positions: int) -> Any:
            return super().prepare(replace(spec, read_sigma_us=0.0), positions)

    with pytest.raises(AssertionError, match="not those of the reference"):
        check_backend(Quiet())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_contract_finds_a_backend_that_counts_saturations_at_one_end(sign: int) -> None:
    class OneEnd(Reference):
        def prepare(self, spec: ReadSpec, positions: int) -> Any:
            made = super().prepare(spec, positions)
            convert = made._convert

            def counted(*arguments: Any) -> tuple[np.ndarray, int]:
                codes, _ = convert(*arguments)
                return codes, int((sign * codes >= spec.top_code).sum()) if spec.top_code else 0

            made._convert = counted  # type: ignore[method-assign]
            return made

    with pytest.raises(AssertionError, match="saturated conversions"):
        check_backend(OneEnd())


def test_the_contract_finds_a_backend_that_keeps_old_devices() -> None:
    class Stale(Reference):
        def prepare(self, spec: ReadSpec, positions: int) -> Any:
            made = super().prepare(spec, positions)
            made.refresh = lambda new, devices=None: True  # type: ignore[method-assign]
            return made

    with pytest.raises(AssertionError, match="another state"):
        check_backend(Stale())


@pytest.fixture(scope="module", params=["bulk-rram", "ideal"])
def lenet(request: pytest.FixtureRequest) -> Program:
    return compile_model(LENET, request.param, calibration={"input": digits(64)}).need_program()


def digits(count: int) -> np.ndarray:
    with np.load(EXAMPLES / "data" / "mnist.npz") as data:
        return data["x_test"][:count, None].astype(np.float32) / 255


def test_an_unknown_backend_is_refused_by_name(lenet: Program) -> None:
    with pytest.raises(CimcError, match="no backend 'gpu'") as error:
        Chip(lenet, backend="gpu")
    assert "cpu, reference" in str(error.value.fix)


def test_a_network_gives_the_same_outputs_on_every_backend(lenet: Program) -> None:
    """Codes differ only where a current lies on an edge; then a few outputs move by a step."""
    cpu, plain = (Chip(lenet, 1, backend=name).run({"input": digits(8)}, 0)["logits"] for name in ("cpu", "reference"))
    assert np.isclose(cpu, plain, rtol=1e-4, atol=1e-4).mean() > 0.9
    assert np.abs(cpu - plain).max() < 0.1 * np.abs(plain).max()


def test_built_in_targets_are_written_without_fields_that_they_do_not_use() -> None:
    for name in ("ideal", "bulk-rram", "bulk-rram-256", "isaac"):
        written = load_target(name).model_dump()
        assert not {"pair_read", "gain_sigma", "offset_sigma_lsb", "bow_sigma_lsb", "calibration_reads"} & written["adc"].keys()
        assert "pulse_noise" not in written["dac"]
        assert Target.model_validate(written) == load_target(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adc": {"bits": None, "pair_read": "subtracted"}}, "needs adc.bits"),
        ({"dac": {"signed": "bipolar", "bits": None}}, "bipolar needs dac.bits"),
        ({"adc": {"bits": 1, "pair_read": "subtracted"}}, "at least 2"),
        ({"dac": {"bits": None, "pulse_noise": "fresh"}}, "fresh needs dac.bits"),
        ({"adc": {"bits": None, "gain_sigma": 0.1}}, "need adc.bits"),
        ({"array": {"unit_column": True}, "weights": {"representation": "offset"}, "adc": {"pair_read": "subtracted"}}, "pair"),
    ],
)
def test_reads_that_no_converter_does_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        target(PAIR, **changes)


# Reads of other kinds -------------------------------------------------------------------------------------------------


def products(chip: Target, matrix: np.ndarray, x: np.ndarray, **more: Any) -> np.ndarray:
    return crossbar(chip, matrix, **more).multiply(x, dense(matrix), 1).astype(np.float64)


@pytest.mark.parametrize("changes", [{"adc": {"pair_read": "subtracted"}}, {"dac": {"signed": "bipolar"}}])
def test_without_noise_every_kind_of_read_gives_the_product(changes: dict[str, Any]) -> None:
    """Within the steps of 12-bit inputs and of a 16-bit conversion."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(2, 50, 7)).astype(np.float32)
    x = random.uniform(-1, 1, (20, 100)).astype(np.float32)
    sections = {part: {**QUIET.get(part, {}), **changes.get(part, {})} for part in {*QUIET, *changes}}
    y = products(target(PAIR, **sections), matrix, x, range_ua=150.0, gain=4095.0, signed=True)
    exact = np.concatenate([x[:, 50 * g : 50 * g + 50] @ matrix[g] for g in range(2)], axis=1)
    assert np.abs(y - exact).max() < 50 * np.abs(matrix).max() / 4096 + 1e-2


def test_a_pair_subtracted_in_the_array_has_one_conversion_error_not_two() -> None:
    """With one range: variance 1/12 of an LSB of the signed range against twice 1/12 of an LSB of the unsigned one."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1, 64, 16)).astype(np.float32)
    x = random.uniform(0, 1, (500, 64)).astype(np.float32)
    quiet = {"adc": {"bits": 8}, "device": {"levels": None}, "dac": {"bits": 12}}
    exact = products(
        target(PAIR, adc={"bits": None}, device={"levels": None}, dac={"bits": 12}), matrix, x, gain=4095.0, signed=False
    )
    errors = {}
    for kind, range_ua in (("separate", 200.0), ("subtracted", 50.0)):
        chip = target(PAIR, **{**quiet, "adc": {"bits": 8, "pair_read": kind}})
        errors[kind] = products(chip, matrix, x, range_ua=range_ua, gain=4095.0, signed=False) - exact
    expected = (2 * (200 / 255) ** 2 / (50 / 127) ** 2) ** 0.5
    found = errors["separate"].std() / errors["subtracted"].std()
    assert abs(found / expected - 1) < 0.05, (found, expected)


def test_a_subtracted_pair_converts_once_a_column() -> None:
    matrix = np.ones((1, 8, 5), np.float32)
    counts = {}
    for kind in ("separate", "subtracted"):
        bar = crossbar(target(PAIR, adc={"pair_read": kind}), matrix, range_ua=50.0, gain=255.0, signed=False)
        bar.multiply(np.ones((3, 8), np.float32), dense(matrix), 1)
        counts[kind] = bar.stats.adc_conversions
    assert counts == {"separate": 3 * 10, "subtracted": 3 * 5}


def test_fresh_noise_is_averaged_over_the_pulses_of_a_code() -> None:
    """The code 2**b - 1 has the pulses 1, 2, 4 …: variance (4**b - 1) / 3 against (2**b - 1)**2 of held noise."""
    matrix = np.array([[[1.0]]], np.float32)
    n = 40_000
    x = np.ones((n, 1), np.float32)
    deviations = {}
    for kind in ("held", "fresh"):
        chip = target(PAIR, dac={"pulse_noise": kind}, adc={"bits": None}, device={"read_sigma_us": 2.0})
        deviations[kind] = products(chip, matrix, x, gain=255.0, signed=False).std()
    expected = ((4**8 - 1) / 3) ** 0.5 / 255
    assert abs(deviations["fresh"] / deviations["held"] / expected - 1) < 5 * (2 / (2 * n)) ** 0.5


# Converters -----------------------------------------------------------------------------------------------------------


def column_errors(columns: int, **adc: Any) -> ColumnErrors:
    matrix = np.zeros((1, 2, columns), np.float32)
    chip = target(PAIR, adc={"bits": 8, **adc})
    bar = crossbar(chip, matrix, range_ua=10.0, weight_max=np.ones(1, np.float32))
    errors = ColumnErrors.of(chip, bar.cells_of())
    assert errors is not None
    return errors


def test_converters_deviate_as_the_target_says() -> None:
    n = 10_000
    errors = column_errors(n // 2, gain_sigma=0.02, offset_sigma_lsb=3.0, bow_sigma_lsb=0.7)
    for values, mean, sigma in ((errors.gain, 1, 0.02), (errors.offset_lsb, 0, 3.0), (errors.bow_lsb, 0, 0.7)):
        assert abs(values.mean() - mean) < 5 * sigma / n**0.5
        assert abs(values.std() / sigma - 1) < 5 / (2 * n) ** 0.5
    assert (errors.slope == 1).all()
    assert (errors.intercept == 0).all()


def test_calibration_leaves_the_noise_of_its_reads() -> None:
    """Two points 0.8 of the range apart: the slope has twice the variance of a mean over that distance, squared."""
    n, reads, sigma = 10_000, 25, 0.5
    errors = column_errors(n // 2, gain_sigma=0.05, offset_sigma_lsb=2.0, sigma_lsb=sigma, calibration_reads=reads)
    mean = ((sigma**2 + 1 / 12) / reads) ** 0.5
    slope_error = errors.slope - errors.gain
    assert abs(slope_error.std() / (2**0.5 * mean / (0.8 * 255)) - 1) < 5 / (2 * n) ** 0.5
    # The intercept is the line through both points at 0: weights 9/8 and -1/8.
    intercept_error = errors.intercept - errors.offset_lsb
    assert abs(intercept_error.std() / (mean * (81 + 1) ** 0.5 / 8) - 1) < 5 / (2 * n) ** 0.5


def test_a_calibrated_chip_is_nearly_as_good_as_one_whose_lines_convert_alike() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1, 64, 16)).astype(np.float32)
    x = random.uniform(0, 1, (200, 64)).astype(np.float32)
    exact = x @ matrix[0]

    def error(**adc: Any) -> float:
        chip = target(PAIR, **{**QUIET, "adc": {"bits": 10, **adc}})
        return float((products(chip, matrix, x, range_ua=220.0, gain=4095.0, signed=False) - exact).std())

    spread = {"gain_sigma": 0.03, "offset_sigma_lsb": 4.0}
    alike, raw, calibrated = error(), error(**spread), error(**spread, calibration_reads=4096)
    assert raw > 5 * alike
    assert calibrated < 1.2 * alike


def test_an_image_of_signed_conversions_is_refused() -> None:
    chip = {"adc.pair_read": "subtracted"}
    program = compile_model(LENET, "bulk-rram-256", calibration={"input": digits(16)}, settings=chip).need_program()
    with pytest.raises(FitError, match="unsigned conversions only"):
        export_image(program)


def test_the_intercept_of_each_copy_of_a_layer_is_taken_off() -> None:
    """Offsets of a whole LSB and no other error: with them calibrated, both copies give what lines without offset give."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1, 32, 6)).astype(np.float32)
    x = random.uniform(0.2, 1, (40, 32)).astype(np.float32)
    found = {}
    for sigma in (0.0, 3.0):
        chip = target(PAIR, **{**QUIET, "adc": {"bits": 12, "offset_sigma_lsb": sigma, "calibration_reads": 1 << 20}})
        bar = crossbar(chip, matrix, range_ua=220.0, gain=4095.0, signed=False)
        bar.copies = 2
        y = bar.multiply(x, dense(matrix), 1)
        assert len(bar.held) == 2
        found[sigma] = y
    lsb = 220 / 4095 / (0.1 * 60) * np.abs(matrix).max() * 4096 / 4095
    # Two roundings a product, with and without the offset: within two LSB.
    assert np.abs(found[3.0] - found[0.0]).max() < 2.1 * lsb
