"""ADC ranges: closed forms, and the promised share of saturations recomputed device by device."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cimc.errors import FitError, VerifyError
from cimc.ir.encoding import encode
from cimc.ir.geometry import Dense, WeightView
from cimc.ir.program import InputCoding, Layer, Program
from cimc.ir.ranging import Samples, adc_range, choose_ranges, drives, input_coding
from cimc.passes.base import Compilation
from cimc.passes.manager import PassManager
from cimc.passes.ranges import Ranges
from cimc.targets.description import Adc, Array, Dac, Device, Programming, Target, Weights
from tests.passes.program_text import new_lines

F32 = np.ndarray[Any, np.dtype[np.float32]]


def _target(**parts: Any) -> Target:
    device = Device(g_min_us=10, g_max_us=70, levels=16, read_voltage_v=0.1)
    return Target(**{"name": "test", "device": device, "dac": Dac(bits=8), "adc": Adc(bits=8), **parts})


def _state(target: Target, weight: F32, vectors: F32, cuts: tuple[int, ...], coding: InputCoding | None = None) -> Compilation:
    """One dense layer, cut; ``weight`` is ``[groups, rows, columns]``."""
    coding = coding or input_coding(float(np.abs(vectors).max()), bool((vectors < 0).any()), "", target)
    view = WeightView(tensor="w", split=weight.shape, perm=(0, 1, 2), shape=weight.shape)
    layer = Layer(name="fc", weight=view, coding=coding, row_cuts=cuts, column_cuts=(0, weight.shape[2]))
    span = np.abs(weight).max(keepdims=True).reshape(1).astype(np.float32)
    program = Program(
        target=target, inputs=(), outputs=(), layers=(layer,), tensors={"initializer/w": weight, "weight_max/fc": span}
    )
    return Compilation(None, target, program=program, samples={"fc": vectors})  # type: ignore[arg-type]


def _ranged(state: Compilation) -> Layer:
    return PassManager([Ranges()]).run(state).need_program().layers[0]


def _saturated(layer: Layer, weight: F32, vectors: F32, target: Target, seed: int = 0) -> float:
    """Share of reads above the range, each device with its own programming error and read noise (float64)."""
    rng = np.random.default_rng(seed)
    device = target.device
    bits, top = target.dac.bits or 0, 2 ** (target.dac.bits or 0) - 1
    codes = np.clip(np.rint(vectors.astype(np.float64) * layer.coding.gain), -top, top)
    phases = [np.maximum(codes, 0), np.maximum(-codes, 0)] if layer.coding.signed else [np.maximum(codes, 0)]
    g = encode(weight, np.abs(weight).max(keepdims=True).reshape(1), layer.row_cuts, target).g_us.astype(np.float64)
    g += rng.normal(device.programming.mean_us, device.programming.sigma_us, g.shape)
    over = reads = 0
    lsb = (layer.adc_range_ua or 0) / (2 ** (target.adc.bits or 0) - 1)
    for begin, end in pairwise(layer.row_cuts):
        for phase in phases:
            x = phase[:, :, begin:end] / 2**bits
            current = np.einsum("ngr,grpc->ngpc", x, g[:, begin:end])
            spread = device.read_sigma_us * np.sqrt((x**2).sum(axis=2))
            current += rng.standard_normal(current.shape) * spread[:, :, None, None]
            current = current * device.read_voltage_v + rng.standard_normal(current.shape) * target.adc.sigma_lsb * lsb
            over += int((current > (layer.adc_range_ua or 0)).sum())
            reads += current.size
    return over / reads


def _data(rows: int, columns: int, vectors: int, seed: int = 0, groups: int = 1) -> tuple[F32, F32]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, rows, columns)).astype(np.float32)
    x = rng.exponential(1, (vectors, groups, rows)).astype(np.float32) * rng.lognormal(0, 0.3, (vectors, 1, 1)).astype(np.float32)
    return weight, x


def test_text() -> None:
    """One row at full code over one pair, 0.1 V: the plus device holds g_max, and the range is 0.1 V * 255/256 * 70 uS."""
    device = '"g_min_us": 10, "g_max_us": 70, "levels": 16, "read_voltage_v": 0.1'
    view = '"tensor": "w", "split": [1, 1], "perm": [0, 1], "shape": [1, 1, 1]'
    text = f"""program schema=1 {{
        target t {{device={{{device}}} dac={{"bits": 8}} adc={{"bits": 8}}}}
        layer @fc {{weight={{{view}}} coding={{"gain": 255, "signed": false, "full_scale": 1}}
                    row_cuts=[0, 1] column_cuts=[0, 1]}}
          block 0.0.0: 1 x 2
        tensor initializer/w: float32[1, 1] = [[1]]
        tensor weight_max/fc: float32[1] = [1]
    }}"""
    (line,) = new_lines(text, Ranges(), samples={"fc": np.ones((10, 1, 1), np.float32)})
    found = re.search(r"adc_range_ua=([0-9.]+)", line)
    assert found is not None
    assert float(found[1]) == pytest.approx(0.1 * 255 / 256 * 70, rel=1e-3)


def test_closed_form_of_one_device() -> None:
    """One row at full code over one pair: the plus device holds g_max, V * 255/256 * 70 µS."""
    state = _state(_target(), np.ones((1, 1, 1), np.float32), np.ones((10, 1, 1), np.float32), (0, 1))
    assert _ranged(state).adc_range_ua == pytest.approx(0.1 * 70 * 255 / 256, rel=1e-3)


def test_mean_programming_error_counts() -> None:
    device = Device(g_min_us=10, g_max_us=70, levels=16, read_voltage_v=0.1, programming=Programming(mean_us=5.0))
    state = _state(_target(device=device), np.ones((1, 1, 1), np.float32), np.ones((10, 1, 1), np.float32), (0, 1))
    assert _ranged(state).adc_range_ua == pytest.approx(0.1 * 75 * 255 / 256, rel=1e-3)


@pytest.mark.parametrize("fixed", [None, 70.0])
@pytest.mark.parametrize("signed", [False, True])
def test_saturations_stay_within_their_share(fixed: float | None, signed: bool) -> None:
    """At 10**-4 of a million fresh reads; the bound leaves four standard errors of the recount."""
    device = Device(
        g_min_us=10, g_max_us=70, levels=16, read_voltage_v=0.1, read_sigma_us=1.2, programming=Programming(sigma_us=2.0)
    )
    target = _target(device=device, adc=Adc(bits=8, range_ua=fixed, sigma_lsb=2.0))
    weight, x = _data(512, 64, 8000)
    x = np.minimum(x, 2)
    x = x * np.sign(np.random.default_rng(9).standard_normal(x.shape)).astype(np.float32) if signed else x
    layer = _ranged(_state(target, weight, x[:4000], (0, 256, 512)))
    share = _saturated(layer, weight, x[4000:], target)
    reads = 4000 * 2 * 2 * 64 * (2 if signed else 1)
    assert share <= 1e-4 + 4 * np.sqrt(1e-4 / reads)
    assert share >= 1e-5  # nor is the range wasted
    assert layer.adc_range_ua == fixed or fixed is None
    assert (layer.coding.bits_lost > 0) == (fixed is not None)


def test_bits_lost_are_the_gain() -> None:
    weight, x = _data(256, 16, 500)
    target = _target(adc=Adc(bits=8, range_ua=70))
    state = _state(target, weight, x, (0, 256))
    full = state.need_program().layers[0].coding.gain
    layer = _ranged(state)
    assert layer.coding.bits_lost == pytest.approx(np.log2(full / layer.coding.gain))
    again = _ranged(state)
    assert (again.coding.gain, again.coding.bits_lost) == pytest.approx((layer.coding.gain, layer.coding.bits_lost))


def test_a_wide_range_keeps_the_gain() -> None:
    weight, x = _data(8, 4, 50)
    layer = _ranged(_state(_target(adc=Adc(bits=8, range_ua=1e4)), weight, x, (0, 8)))
    assert (layer.adc_range_ua, layer.coding.bits_lost) == (1e4, 0)


def test_offset_inputs_carry_half_scale_at_rest() -> None:
    weight, x = _data(64, 4, 200)
    x = 1 - np.minimum(x, 2)
    narrow = _target(dac=Dac(bits=8, signed="offset"), adc=Adc(bits=8, range_ua=20.0))
    with pytest.raises(FitError, match="without any input") as caught:
        _ranged(_state(narrow, weight, x, (0, 64)))
    assert "fc" in str(caught.value)
    assert "two_phase" in str(caught.value)
    free = _ranged(_state(_target(dac=Dac(bits=8, signed="offset")), weight, x, (0, 64))).adc_range_ua or 0
    wide = _target(dac=Dac(bits=8, signed="offset"), adc=Adc(bits=8, range_ua=0.95 * free))
    layer = _ranged(_state(wide, weight, x, (0, 64)))
    assert 0 < layer.coding.bits_lost < 3
    (drive,) = drives(x, layer.coding, layer.coding.gain, wide)
    g = encode(weight, np.abs(weight).max(keepdims=True).reshape(1), (0, 64), wide).g_us.reshape(64, -1)
    assert (0.1 * drive[:, 0] @ g).max() == pytest.approx(0.95 * free, rel=0.02)


def test_the_unit_column_never_saturates() -> None:
    target = _target(
        array=Array(unit_column=True), weights=Weights(representation="offset"), adc=Adc(bits=8, saturation_share=0.2)
    )
    weight, x = _data(32, 4, 300)
    layer = _ranged(_state(target, weight, x, (0, 32)))
    (drive,) = drives(x, layer.coding, layer.coding.gain, target)
    assert layer.adc_range_ua is not None
    assert layer.adc_range_ua >= 0.1 * (10 + 4) * drive.sum(axis=2).max()


@pytest.mark.parametrize(
    "target",
    [
        Target(name="ideal"),
        _target(adc=Adc()),
        _target(adc=Adc(bits=8, conversion="per_bit")),
    ],
)
def test_nothing_to_range(target: Target) -> None:
    weight, x = _data(8, 4, 50)
    state = _state(target, weight, x, (0, 8), InputCoding())
    before = state.program
    assert not Ranges().call(state)
    assert state.program is before


def test_zero_inputs_have_a_usable_range() -> None:
    weight, x = _data(8, 4, 50)
    layer = _ranged(_state(_target(), weight, x * 0, (0, 8), InputCoding(gain=255.0, signed=False)))
    assert layer.adc_range_ua == pytest.approx(0.1 * 70 * 8)


def test_quantile_in_closed_form() -> None:
    """Of 0 ... 999,999 a share of 1e-4 may exceed: 100 expected, 80 allowed."""
    assert adc_range(np.arange(1_000_000, dtype=np.float32), 1e-4) == 999_919
    assert adc_range(np.arange(100, dtype=np.float32), 1e-4) == 99
    assert adc_range(np.zeros(0, np.float32), 1e-4) == 0


def test_groups_and_a_part_of_the_columns() -> None:
    """Of a large layer 256 columns are looked at; the range is that of all within a few percent."""
    weight, x = _data(8200, 300, 70)
    target = _target()
    cuts = (*range(0, 8200, 256), 8200)
    layer = _ranged(_state(target, weight, x, cuts))
    assert layer.adc_range_ua is not None
    assert _saturated(layer, weight, x, target) <= 2e-4
    grouped, y = _data(9, 4, 300, groups=16)
    layer = _ranged(_state(target, grouped, y, (0, 9)))
    assert _saturated(layer, grouped, y, target) <= 1e-4


def test_a_chip_recalibrates_with_the_same_core() -> None:
    weight, x = _data(16, 4, 400)
    target = _target()
    layer = _state(target, weight, x, (0, 16)).need_program().layers[0]
    geometry = Dense(input_perm=(0, 1), kept=1, output_dims=(4,), output_perm=(0, 1))
    held = np.full((1, 16, 8), 20, np.float32)
    found = choose_ranges(layer, Samples.of(2 * x[:, 0], geometry, layer), lambda begin, end: held[:, begin:end], target)
    assert found.coding.full_scale == pytest.approx(2 * x.max(), rel=1e-3)
    codes = np.minimum(np.rint(2 * x[:, 0].astype(np.float64) * found.coding.gain), 255)
    assert found.adc_range_ua == pytest.approx(0.1 * 20 * codes.sum(axis=1).max() / 256, rel=1e-3)


def test_same_bytes_twice() -> None:
    weight, x = _data(64, 8, 900)
    target = _target(adc=Adc(bits=8, sigma_lsb=2.0))
    assert _ranged(_state(target, weight, x, (0, 64))) == _ranged(_state(target, weight, x, (0, 64)))


def test_needs_what_calibrate_kept() -> None:
    weight, x = _data(8, 4, 5)
    state = _state(_target(), weight, x, (0, 8))
    state.samples.clear()
    with pytest.raises(VerifyError, match="calibrate"):
        PassManager([Ranges()]).run(state)
