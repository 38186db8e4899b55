"""The devices of a layer: what is derived from them follows every kind of change, and a layer may have several sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cimc.ir.geometry import WeightView
from cimc.ir.program import InputCoding, Layer
from cimc.runtime.arrays.layer_arrays import LayerArrays
from cimc.targets.load import load_target
from tests.runtime import pcm
from tests.runtime.test_wired_crossbar import WIRES

MATRIX = np.random.default_rng(0).standard_normal((2, 24, 10)).astype(np.float32)
AGED = pcm.CHIP | pcm.DRIFT | pcm.NOISE
WIRED = {f"array.wires.{name}": value for name, value in WIRES.items()}


def arrays(settings, name="layer", copies=1, base="bulk-rram"):
    view = WeightView(tensor="w", split=MATRIX.shape, perm=(0, 1, 2), shape=MATRIX.shape)
    layer = Layer(name=name, weight=view, coding=InputCoding(), row_cuts=(0, 16, 24), column_cuts=(0, 6, 10))
    return LayerArrays(layer, MATRIX, np.abs(MATRIX).max().reshape(1), load_target(base, settings), 7, copies=copies)


def same(one, other):
    for name in ("g_us", "unit_g_us", "variance_us2"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("settings", [AGED, WIRED, AGED | WIRED | {"device.stuck_high_rate": 0.1}], ids=["aged", "wired", "both"])
@pytest.mark.parametrize("copies", [1, 2])
def test_writes_leave_what_new_arrays_of_these_devices_have(settings, copies):
    """`effective` is brought up to date in part after a write, and made anew after anything else: both must agree."""
    own = arrays(settings, copies=copies)
    own.advance(100.0)
    before = [devices.g_us.copy() for devices in own.effective]
    for number, devices in enumerate((np.array([3, 17, 250]), np.array([3, 400]), None)):
        which = np.arange(40) if devices is None else devices
        own.g_us.reshape(-1)[which] = 5.0 + number
        for array in own.held[0].arrays.values():
            array.reshape(-1)[which] = 50.0  # written at that time
        own.written(devices)
        anew = arrays(settings, copies=copies)
        anew.hold(own.held)
        anew.advance(100.0)
        for one, other in zip(own.effective, anew.effective, strict=True):
            same(one, other)
    assert not np.array_equal(own.effective[0].g_us, before[0])
    if copies == 2:
        np.testing.assert_array_equal(own.effective[1].g_us, before[1])


def test_a_second_set_of_devices_has_errors_and_cells_of_its_own():
    settings = {"device.stuck_low_rate": 0.2}
    first, second = arrays(settings), arrays(settings, "layer/second")
    stuck = [np.asarray(one.g_us == one.target.device.g_min_us) for one in (first, second)]
    assert all(0.1 < mask.mean() < 0.35 for mask in stuck)
    assert (stuck[0] & stuck[1]).mean() < 0.1  # 4 % by chance
    alive = ~(stuck[0] | stuck[1])
    error, n = (first.g_us - second.g_us)[alive].astype(np.float64), alive.sum()
    sigma = first.target.device.programming.sigma_us * np.sqrt(2)  # both are written to the same goals
    assert abs(error.mean()) < 5 * sigma / np.sqrt(n)
    assert abs(error.std() / sigma - 1) < 5 / np.sqrt(2 * n)
    np.testing.assert_array_equal(first.g_us, arrays(settings).g_us)


def test_each_reader_sees_all_changes_since_it_last_looked():
    own = arrays({})
    one, other = own.watch(), own.watch()
    one.clear()
    own.written(np.array([1, 2]))
    assert one.written.tolist() == [1, 2]
    assert other.anew
    one.clear()
    other.clear()
    own.written(np.array([5]))
    one.clear()
    own.written(np.array([1]))
    assert one.written.tolist() == [1]
    assert other.written.tolist() == [5, 1]
    own.written()
    assert one.some
    assert one.written is None
    assert not one.anew
    own.hold([replace(devices, g_us=devices.g_us.copy()) for devices in own.held])
    assert one.anew
    assert other.anew
