"""The contracts of device models and of their parts. A check raises AssertionError and says what is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.cells import numbered_keys
from cimc.runtime.devices import DeviceModel, State, device_keys
from cimc.targets.device import Device
from cimc.targets.kinds import BASES
from cimc.targets.programming_sections import Programming
from cimc.targets.section import Section

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Change = Callable[[State, I64, float, U64], None]
_N = 600
_TIMES = (0.0, 1.0, 3.6e3, 8.64e4, 3.15e7)
_SIGMAS = 5.0


def check_device(model: type[Any], settings: Mapping[str, Any] | None = None) -> None:
    """Hold a device model to the contract of `cimc.runtime.devices.DeviceModel`.

    Args:
        model: The class.
        settings: Fields of its section, nested as in a target file; pulses and steps of write-verify are checked where the model
            has what they need.

    Raises:
        AssertionError: It breaks the contract.
    """
    section = _section(model, "device", settings, Device)
    assert isinstance(section, Device)
    made: DeviceModel = model(section)
    cells = numbered_keys(1, _N)
    born = made.birth(cells)
    _conductances("birth", born, _N)
    _same("birth", born, np.concatenate([made.birth(cells[:200]), made.birth(cells[200:])]))
    _arrays(made)
    low, high = section.g_min_us, section.g_max_us
    goals = np.linspace(low, high, _N).astype(np.float32)
    _changes("write", made, lambda s, w, t, keys: made.write(s, w, goals[w], t, keys))
    middle = np.float32((low + high) / 2)
    volt = section.write_verify.start_v or 1.0
    for up in (True, False):

        def pulse(state: State, where: I64, time_s: float, keys: U64, up: bool = up) -> None:
            made.pulse(state, where, np.full(where.size, up), time_s, keys)

        def step(state: State, where: I64, time_s: float, keys: U64, up: bool = up) -> None:
            made.step(state, where, np.full(where.size, up), np.full(where.size, volt, np.float32), time_s, keys)

        for name, change in (("pulse", pulse), ("step", step)):
            try:
                state = _changes(name, made, change, start=float(middle))
            except TargetError:
                continue  # the target does not describe such pulses
            moved = float((made.conductance(state, 10.0) - middle).mean())
            assert moved >= 0 if up else moved <= 0, f"{name}: on the average {'up' if up else 'down'} moves by {moved:.3g} µS"
    state = _state(made, goals)
    made.write(state, np.arange(_N), goals, 5.0, device_keys(3, np.arange(_N), np.zeros(_N, np.uint32)))
    _ages(made, state)


def check_programming(
    model: type[Any], settings: Mapping[str, Any] | None = None, goals_us: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0, 50.0)
) -> None:
    """Hold a programming model to its contract, and to the mean and deviation that its section states at some goals (µS).

    Raises:
        AssertionError: It breaks the contract.
    """
    section = _section(model, "programming", settings, Programming)
    made, count = model(section), 20_000
    keys = device_keys(5, np.arange(count), np.zeros(count, np.uint32))
    for goal in goals_us:
        goals = np.full(count, goal, np.float32)
        held = made.write(goals.copy(), keys)
        _conductances("write", held, count)
        _same("write", held, np.concatenate([made.write(goals[:7], keys[:7]), made.write(goals[7:], keys[7:])]))
        mean, sigma = (float(figure) for figure in section.error_us(goal))  # type: ignore[attr-defined]
        if goal < _SIGMAS * sigma - mean:
            continue  # conductances that are cut at 0 have other moments
        error = held.astype(np.float64) - goal
        square = np.square(error - error.mean())
        assert abs(error.mean() - mean) <= _SIGMAS * sigma / np.sqrt(count) + 1e-6 * goal, (
            f"write: at {goal} µS the mean error is {error.mean():.4g}, not the stated {mean:.4g}"
        )
        assert abs(square.mean() - sigma**2) <= _SIGMAS * square.std() / np.sqrt(count) + (1e-6 * goal) ** 2, (
            f"write: at {goal} µS the deviation is {error.std():.4g}, not the stated {sigma:.4g}"
        )


def check_drift(model: type[Any], settings: Mapping[str, Any] | None = None) -> None:
    """Hold a drift model to its contract.

    Raises:
        AssertionError: It breaks the contract.
    """
    made = model(_section(model, "drift", settings, None))
    written = np.linspace(0, 100, _N).astype(np.float32)
    goals = written + np.float32(0.5)
    cells, writes = numbered_keys(1, _N), numbered_keys(2, _N)

    def held(age: float, part: slice = slice(None)) -> F32:
        own = written[part], goals[part], np.full(written[part].size, age), cells[part], writes[part]
        found: F32 = made.conductance(*own)
        return found

    first = {age: held(age) for age in _TIMES}
    for age in reversed(_TIMES):
        _conductances(f"conductance at {age} s", first[age], _N)
        _same(f"conductance at {age} s, asked again", first[age], held(age))
        _same(f"conductance at {age} s", first[age], np.concatenate([held(age, slice(0, 99)), held(age, slice(99, None))]))
    _same("conductance at age 0 is what was written", first[0.0], written)


def check_read_noise(section: type[Any], settings: Mapping[str, Any] | None = None) -> None:
    """Hold a read noise kind, which is a section, to its contract.

    Raises:
        AssertionError: It breaks the contract.
    """
    made: Any = _section(section, "read_noise", settings, None)
    g_us = np.linspace(0, 100, _N).astype(np.float32)
    for age in _TIMES:
        variance = made.variance_us2(g_us, g_us, np.full(_N, age))
        assert np.shape(variance) == (_N,), f"variance_us2: shape {np.shape(variance)}, not {(_N,)}"
        assert np.isfinite(variance).all(), f"variance_us2: not finite at an age of {age} s"
        assert (variance >= 0).all(), f"variance_us2: below 0 at an age of {age} s"
        np.testing.assert_allclose(made.variance_us2(g_us, g_us, age), variance, rtol=1e-6)


def _section(model: type[Any], part: str, settings: Mapping[str, Any] | None, default: type[Section] | None) -> Section:
    own = model if issubclass(model, Section) else getattr(model, "Section", default)
    assert isinstance(own, type), f"{model.__name__} has no class attribute Section"
    assert issubclass(own, BASES[part]), f"{own.__name__} is no subclass of {BASES[part].__name__}"
    kind = own.model_fields["kind"].default
    return own.model_validate({"kind": kind if isinstance(kind, str) else "checked", **(settings or {})})


def _state(made: DeviceModel, g_us: F32) -> State:
    held = np.array(g_us, np.float32)
    return State(held, lambda: numbered_keys(1, held.size), made.arrays(held, 0.0))


def _arrays(made: DeviceModel) -> None:
    for shape in ((_N,), (2, 3, 2, 5), (0,)):
        for name, array in made.arrays(np.ones(shape, np.float32), 2.0).items():
            assert array.shape == shape, f"arrays: {name} has shape {array.shape}, not {shape}"
            assert array.dtype.kind in "fiu", f"arrays: {name} holds {array.dtype}, not numbers"
            assert "/" not in name, f"arrays: {name} must hold no slash"


def _changes(
    name: str,
    made: DeviceModel,
    change: Change,
    start: float = 1.0,
) -> State:
    """Change some devices at once, and in two parts in another order: same bytes, and no other device is touched."""
    some = np.flatnonzero(np.arange(_N) % 3 > 0)
    keys, parts = (
        device_keys(7, some, np.zeros(some.size, np.uint32)),
        np.split(np.random.default_rng(0).permutation(some.size), [50]),
    )
    whole, pieces = _state(made, np.full(_N, start)), _state(made, np.full(_N, start))
    before = _state(made, np.full(_N, start))
    change(whole, some, 10.0, keys)
    for part in parts:
        change(pieces, some[part], 10.0, keys[part])
    _conductances(name, whole.g_us, _N)
    _same(name, whole.g_us, pieces.g_us)
    rest = np.setdiff1d(np.arange(_N), some)
    _same(f"{name}: other devices", whole.g_us[rest], before.g_us[rest])
    for array in whole.arrays:
        _same(f"{name}: {array}", whole.arrays[array], pieces.arrays[array])
        _same(f"{name}: {array} of other devices", whole.arrays[array][rest], before.arrays[array][rest])
    return whole


def _ages(made: DeviceModel, state: State) -> None:
    """Conductances and read variances over time, in any order, of parts, and of a saved copy."""
    saved = State(state.g_us.copy(), state.keys, {name: array.copy() for name, array in state.arrays.items()})
    first = {}
    for time_s in _TIMES:
        held = made.conductance(state, 5.0 + time_s)
        _conductances(f"conductance after {time_s} s", held, _N)
        first[time_s] = held.copy()
    for time_s in reversed(_TIMES):
        now = 5.0 + time_s
        _same(f"conductance after {time_s} s, asked again", first[time_s], made.conductance(state, now))
        _same(f"conductance of a saved state after {time_s} s", first[time_s], made.conductance(saved, now))
        parts = [made.conductance(state.at(where), now) for where in np.split(np.arange(_N), [77])]
        _same(f"conductance of parts after {time_s} s", first[time_s], np.concatenate(parts))
        variance = made.read_variance(state, first[time_s], now)
        shape = np.shape(variance)
        assert shape in ((), (_N,)), f"read_variance: shape {shape}, neither a number nor {(_N,)}"
        assert np.isfinite(variance).all(), f"read_variance: not finite after {time_s} s"
        assert np.min(variance) >= 0, f"read_variance: below 0 after {time_s} s"
    _same("conductance and read_variance change no state", saved.g_us, state.g_us)


def _conductances(name: str, g_us: F32, count: int) -> None:
    assert g_us.shape == (count,), f"{name}: shape {g_us.shape}, not {(count,)}"
    assert g_us.dtype == np.float32, f"{name}: {g_us.dtype}, not float32"
    assert np.isfinite(g_us).all(), f"{name}: a conductance is not finite"
    assert (g_us >= 0).all(), f"{name}: a conductance is negative"


def _same(name: str, one: NDArray[Any], other: NDArray[Any]) -> None:
    assert one.tobytes() == other.tobytes(), f"{name}: other bytes for the same keys in another split, order or time"
