"""Stochastic pulse trains: mean and variance of coincidences, and the same bytes however they are computed."""

from __future__ import annotations

import numpy as np
import pytest

import cimc
from cimc.devices import Memristor
from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.rank_one import Vectors
from cimc.targets import kinds
from cimc.targets.load import load_target
from cimc.threads import set_threads, threads

LENGTH = 31


def writer(groups: int, rows: int, columns: int, at_us: float = 20.55, **settings: object) -> TrainWriter:
    target = load_target("bulk-rram", {"update.rule": "tiki_taka", **settings})
    shape = groups, rows, target.planes, columns
    return TrainWriter(target, np.full(shape, at_us, np.float32), np.zeros(shape, np.uint32), 5, shape=shape)


def normal(seed: int, *shape: int, size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def test_mean_and_variance_are_those_of_the_closed_form() -> None:
    """Coincidences of two trains are binomial: length slots of chance p p'. 20,000 groups draw them independently."""
    groups, x, d = 20_000, np.float32([1.0, 0.5, 0.03]), np.float32([0.2, -0.05])
    own = writer(groups, 3, 2)
    vectors = Vectors(np.tile(x[:, None], (groups, 1, 1)), np.tile(d[:, None], (groups, 1, 1)))
    own.train(1, vectors, 9, LENGTH)
    counts = own.writes.reshape(own.shape)[:, :, 1].astype(np.float64)
    q2 = 1.0 * 0.2 / (LENGTH * own.step)
    chance = q2 * np.abs(x)[:, None] * np.abs(d / 0.2)
    mean, variance = LENGTH * chance, LENGTH * chance * (1 - chance)
    np.testing.assert_allclose(mean, np.abs(np.outer(x, d)) / own.step, rtol=1e-5)
    error = np.sqrt(variance / groups)
    assert (np.abs(counts.mean(axis=0) - mean) < 5 * error).all()
    fourth = ((counts - counts.mean(axis=0)) ** 4).mean(axis=0)
    assert (np.abs(counts.var(axis=0) - variance) < 5 * np.sqrt(fourth / groups)).all()
    others = own.writes.reshape(own.shape)[:, :, [0, 2, 3]]
    assert not others.any()


def test_the_mean_step_is_the_product_in_units_of_half_the_window() -> None:
    exact = {"device.pulse.cycle_spread": 0.0, "device.pulse.device_spread": 0.0, "device.pulse.down_us": 0.25}
    own = writer(4000, 1, 2, **exact)
    x, d = np.full((4000, 1, 1), 0.7, np.float32), np.tile(np.float32([[0.02], [-0.03]]), (4000, 1, 1))
    own.train(0, Vectors(x, d), 1, LENGTH)
    moved = (own.g_us.reshape(own.shape)[:, 0, 0] - own.middle_us) / own.half_us
    asked = 0.7 * np.array([0.02, -0.03])
    assert (np.abs(moved.mean(axis=0) - asked) < 5 * moved.std(axis=0) / np.sqrt(4000) + own.step * np.abs(asked)).all()


@pytest.fixture
def same():
    """The built-in device as a model of another name: writers take the general path for it."""
    cimc.register_device(type("Same", (Memristor,), {}), "same")
    yield "same"
    for part in kinds._registered.values():
        part.clear()
    for changed in kinds._listeners:
        changed()


def test_any_device_model_gets_the_pulses_of_the_compiled_one(same: str) -> None:
    vectors = Vectors(normal(0, 2, 4, 30), normal(1, 2, 6, 30, size=0.02), pack=2)
    compiled, general = writer(2, 4, 6), writer(2, 4, 6, **{"device.kind": same})
    assert (compiled.compiled, general.compiled) == (True, False)
    one, other = compiled.train(1, vectors, 3, LENGTH), general.train(1, vectors, 3, LENGTH)
    assert one[0].pulses > 100
    assert one == other
    assert (compiled.writes == general.writes).all()
    np.testing.assert_allclose(compiled.g_us, general.g_us, atol=1e-4)


def test_the_bytes_do_not_depend_on_the_threads() -> None:
    before, found = threads(), []
    try:
        for number in (1, 3):
            set_threads(number)
            own = writer(2, 16, 5)
            own.train(0, Vectors(normal(2, 2, 16, 50), normal(3, 2, 5, 50, size=0.02)), 4, LENGTH)
            found.append(own.g_us.tobytes() + own.writes.tobytes())
    finally:
        set_threads(before)
    assert found[0] == found[1]


def test_trains_too_short_for_an_update_are_counted() -> None:
    own = writer(1, 2, 2)
    most = LENGTH * own.step
    x, d = np.ones((1, 2, 3), np.float32), np.full((1, 2, 3), 0.99 * most, np.float32)
    d[:, 0, 1] = 1.5 * most
    done, short = own.train(0, Vectors(x, d), 4, LENGTH)
    assert short == 1
    assert done.pulses <= 2 * 2 * 3 * LENGTH


def test_nothing_moves_between_packed_groups() -> None:
    own = writer(1, 6, 4)
    own.train(0, Vectors(np.ones((1, 6, 40), np.float32), np.full((1, 4, 40), 0.05, np.float32), pack=2), 4, LENGTH)
    pulses = own.writes.reshape(own.shape)[0, :, 0]
    assert pulses[:3, :2].all()
    assert pulses[3:, 2:].all()
    assert not pulses[:3, 2:].any()
    assert not pulses[3:, :2].any()


def test_a_worn_device_stays_where_it_is_and_its_pulses_count() -> None:
    own = writer(1, 2, 2, **{"device.endurance_writes": 20})
    vectors = Vectors(np.ones((1, 2, 40), np.float32), np.full((1, 2, 40), 0.2, np.float32))
    done, _ = own.train(0, vectors, 4, LENGTH)
    used = own.writes.reshape(own.shape)[:, :, 0].astype(int)
    assert (used > 20).all()
    assert done.worn == int((used - 20).sum())
    held = own.g_us.copy()
    assert own.train(0, vectors, 5, LENGTH)[0].worn > 0
    assert own.g_us.tobytes() == held.tobytes()
