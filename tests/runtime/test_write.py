"""Writing single devices: where they land, which draws they take, and what a device no longer does."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import TargetError
from cimc.runtime.cells import born_on, numbered_keys, stick, stuck_us
from cimc.runtime.programmers.direct import Direct
from cimc.runtime.pulses import PulseWriter
from cimc.runtime.write import Writer, Writes, device_seed, writer
from cimc.targets import kinds
from cimc.targets.load import load_target

SEED = device_seed(7, "conv1")
GaussianWriter = partial(Writer, kind="direct")
VerifyWriter = partial(Writer, kind="write_verify")


def target(**settings):
    return load_target("bulk-rram", {f"device.{k.replace('__', '.')}": v for k, v in settings.items()})


def made(chip, count, cls=GaussianWriter, start_us=10.0):
    return cls(chip, np.full(count, start_us, np.float32), np.zeros(count, np.uint32), SEED)


def test_errors_have_the_stated_mean_and_deviation():
    n = 40_000
    w = made(target(programming__mean_us=1.0, programming__sigma_us=2.9), n)
    done = w.write(np.arange(n), np.full(n, 30, np.float32))
    error = w.g_us.astype(np.float64) - 30
    assert abs(error.mean() - 1.0) < 5 * 2.9 / np.sqrt(n)
    assert abs(error.std() - 2.9) < 5 * 2.9 / np.sqrt(2 * n)
    assert done == Writes(devices=n, pulses=None, trials=None, reads=None, time_ns=None, energy_nj=None)


def test_no_conductance_is_negative_and_the_window_does_not_clip():
    w = made(target(programming__mean_us=0.0, programming__sigma_us=5.0), 4000)
    w.write(np.arange(4000), np.repeat(np.float32([0, 32.9]), 2000))
    assert w.g_us.min() == 0
    assert 0.45 < (w.g_us[:2000] == 0).mean() < 0.55
    assert w.g_us[2000:].max() > 40


def test_without_error_a_write_lands_on_its_goal_and_touches_nothing_else():
    w = made(target(programming__mean_us=0.0, programming__sigma_us=0.0), 5)
    w.write(np.array([3, 1]), np.float32([12.5, 20]))
    assert w.g_us.tolist() == [10, 20, 10, 12.5, 10]
    assert w.writes.tolist() == [0, 1, 0, 1, 0]


def run(cls, chip, batches):
    w = made(chip, 64, cls)
    for devices, amounts in batches:
        if cls is PulseWriter:
            w.pulse(devices, np.rint(amounts).astype(np.int32) - 15)
        else:
            w.write(devices, amounts)
    return w.g_us.tobytes() + w.writes.tobytes()


@pytest.mark.parametrize("cls", [GaussianWriter, VerifyWriter, PulseWriter])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_same_bytes_in_any_order_and_grouping(cls, data):
    """Two writes of some devices, given whole, or each shuffled and cut anywhere."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    chip, whole, pieces = target(stuck_low_rate=0.1, endurance_writes=20), [], []
    for _ in range(2):
        devices = np.flatnonzero(rng.random(64) < 0.7)
        goals = rng.uniform(8.2, 32.9, devices.size).astype(np.float32)
        whole.append((devices, goals))
        shuffled = rng.permutation(devices.size)
        cut = data.draw(st.integers(0, devices.size))
        pieces += [(devices[part], goals[part]) for part in (shuffled[:cut], shuffled[cut:])]
    assert run(cls, chip, whole) == run(cls, chip, pieces)


def test_each_write_draws_anew_and_each_layer_and_chip():
    errors = []
    for seed in (SEED, device_seed(7, "conv2"), device_seed(8, "conv1")):
        w = GaussianWriter(target(), np.zeros(500, np.float32), np.zeros(500, np.uint32), seed)
        for _ in range(2):
            w.write(np.arange(500), np.full(500, 20, np.float32))
            errors.append(w.g_us.astype(np.float64) - 21)
    correlation = np.corrcoef(errors)
    assert np.abs(correlation - np.eye(6)).max() < 5 / np.sqrt(500)


def test_faults_are_those_of_the_chip_as_it_was_made():
    chip = target(stuck_low_rate=0.2, stuck_high_rate=0.1)
    fabricated, keys = np.full(3000, 20, np.float32), numbered_keys(SEED, 3000)
    stick(chip.device, fabricated, keys)
    stuck = ~np.isnan(stuck_us(chip.device, keys))
    assert set(fabricated[stuck].tolist()) == {np.float32(8.2), np.float32(32.9)}
    assert not set(fabricated[~stuck].tolist()) & {np.float32(8.2), np.float32(32.9)}
    before = fabricated.copy()
    w = GaussianWriter(chip, fabricated, np.zeros(3000, np.uint32), SEED)
    w.write(np.arange(3000), np.full(3000, 25, np.float32))
    np.testing.assert_array_equal(fabricated == before, stuck)


@pytest.mark.parametrize("cls", [GaussianWriter, VerifyWriter])
def test_a_device_sticks_after_its_last_write(cls):
    w = made(target(endurance_writes=3), 2, cls)
    held = []
    for n in range(6):
        done = w.write(np.array([0]), np.float32([30 if n % 2 else 12]))
        held.append(w.g_us[0])
        assert done.worn == (n >= 3)
    assert len(set(held[:3])) == 3
    assert set(held[2:]) == {held[2]}
    assert w.writes.tolist() == [6, 0]


def test_born_on_devices_are_uniform_over_their_range():
    g = born_on(target(born_us=[8.2, 20.0]).device, numbered_keys(SEED, 10_000).reshape(4, 50, 2, 25))
    assert g.shape == (4, 50, 2, 25)
    assert g.dtype == np.float32
    assert 8.2 - 1e-5 <= g.min() < 8.3
    assert 19.9 < g.max() <= 20 + 1e-5
    assert abs(g.mean() - 14.1) < 5 * 11.8 / np.sqrt(12 * g.size)
    assert (born_on(target(born_us=None).device, numbered_keys(SEED, 3)) == np.float32(8.2)).all()
    faulty = born_on(target(stuck_high_rate=0.5).device, numbered_keys(SEED, 1000))
    assert 0.4 < (faulty == np.float32(32.9)).mean() < 0.6


def test_time_and_energy_where_the_target_gives_them():
    chip = load_target("bulk-rram", {"timing.programming_ns": 1000, "timing.programming_energy_nj": 0.5})
    done = made(chip, 9).write(np.arange(4), np.full(4, 20, np.float32))
    assert (done.time_ns, done.energy_nj) == (4000, 2.0)
    total = done + done
    assert (total.devices, total.energy_nj, total.pulses) == (8, 4.0, None)


def test_the_target_chooses_the_writer():
    arrays = np.zeros(4, np.float32), np.zeros(4, np.uint32), SEED
    assert isinstance(writer(load_target("bulk-rram"), *arrays).programmer, Direct)
    chip = load_target("bulk-rram", {"update.programming": "write_verify"})
    assert writer(chip, *arrays).programmer.training_trials == 2
    assert writer(chip, *arrays, training=False).programmer.transfer_trials == 5


def test_a_programming_model_from_a_package_writes_many_devices_at_once(monkeypatch, request):
    calls = []

    class Half:
        def __init__(self, section):
            pass

        def write(self, goal_us, keys):
            calls.append(goal_us.size)
            return goal_us * np.float32(0.5)

    class Offered(dict):
        names = property(lambda self: set(self))

    class Point:
        load = staticmethod(lambda: Half)

    looked, offered = [], {}

    def points(group):
        looked.append(group)
        return offered.get(group, Offered())

    request.addfinalizer(kinds._offered_model.cache_clear)
    monkeypatch.setattr(kinds, "entry_points", points)
    with pytest.raises(TargetError, match="no model 'half' of programming"):
        target(programming__kind="half")
    offered["cimc.programming"] = Offered(half=Point)  # that there was none is not kept
    w = made(target(programming__kind="half"), 4)
    w.write(np.array([2, 0]), np.float32([30, 20]))
    assert w.g_us.tolist() == [10, 10, 15, 10]
    assert w.writes.tolist() == [1, 0, 1, 0]
    assert calls == [2]
    found = len(looked)
    assert kinds.model_class("programming", "half") is Half
    assert len(looked) == found  # what was found is kept
