"""The contract of programmers. A check raises AssertionError and says what is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.cells import numbered_keys
from cimc.runtime.devices import Memristor, State
from cimc.runtime.programmers.access import DeviceState
from cimc.runtime.programmers.interface import Programmer
from cimc.runtime.programmers.report import Report
from cimc.targets.kinds import BASES
from cimc.targets.load import load_target

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_N = 600


class _Watched(Memristor):
    """The built-in device; it remembers which devices it has changed."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self.changed: set[int] = set()

    def _left(self, state: State, where: I64, held: F32, goal_us: F32, time_s: float) -> None:
        self.changed |= set(where.tolist())
        super()._left(state, where, held, goal_us, time_s)


class _Case:
    """Devices of a chip, and a programmer of it."""

    def __init__(self, model: type[Any], section: Any, target: Any, settings: Mapping[str, Any], watched: bool = False) -> None:
        chip = load_target(target, dict(settings))
        self.programmer: Programmer = model(section, chip)
        device = chip.device
        self.start = np.linspace(device.g_min_us, device.g_max_us, _N, dtype=np.float32)
        self.goals = self.start[::-1].copy()
        made: Any = _Watched(device) if watched else Memristor(device)
        state = State(self.start.copy(), lambda: numbered_keys(3, _N), made.arrays(self.start, 0.0))
        self.cells = DeviceState(chip, state.g_us, np.zeros(_N, np.uint32), 5, state=state)
        if watched:
            self.cells.model = made

    def program(self, devices: I64, training: bool = False) -> Report:
        report = self.programmer.program(self.cells, devices, self.goals[devices], training)
        n = devices.size
        assert report.devices == n, f"report: devices is {report.devices}, not {n}"
        assert report.success is None or (report.success.shape == (n,) and report.success.dtype == bool), (
            "report: success is no mask [n]"
        )
        for name in ("pulses", "reads", "trials"):
            counts = getattr(report, name)
            assert counts is None or (counts.shape == (n,) and (counts >= 0).all()), f"report: {name} are no counts [n]"
        for name in ("time_ns", "energy_nj"):
            figure = getattr(report, name)
            assert figure is None or (np.isfinite(figure) and figure >= 0), f"report: {name} is {figure}"
        assert np.isfinite(self.cells.g_us).all(), "a conductance is not finite"
        assert (self.cells.g_us >= 0).all(), "a conductance is negative"
        return report


def check_programmer(
    model: type[Any],
    settings: Mapping[str, Any] | None = None,
    target: str = "bulk-rram",
    target_settings: Mapping[str, Any] | None = None,
) -> None:
    """Hold a programmer to the contract of `cimc.runtime.programmers.Programmer`.

    Devices change through the device model alone; those that are not written, stuck or worn keep what they hold; every write
    is counted; the same writes give the same bytes in any order and split; a write brings devices nearer to their goals.

    Args:
        model: The class.
        settings: Fields of its section.
        target: A chip that has the figures which it needs.
        target_settings: Changes of that chip.

    Raises:
        AssertionError: It breaks the contract.
    """
    section_type: Any = getattr(model, "Section", None)
    known = isinstance(section_type, type) and issubclass(section_type, BASES["programmer"])
    assert known, "Section extends no ProgrammerSection"
    section, chip = section_type(**(settings or {})), dict(target_settings or {})
    every, some = np.arange(_N), np.arange(0, _N, 3)

    for watched in (False, True):  # by kernels where there are any, and by the methods of the device model
        case = _Case(model, section, target, chip, watched)
        report = case.program(some)
        others = np.setdiff1d(every, some)
        assert np.array_equal(case.cells.g_us[others], case.start[others]), "devices change that are not written"
        assert not case.cells.writes[others].any(), "writes of other devices are counted"
        assert (case.cells.writes[some] > 0).all(), "a write is not counted"
        error = np.abs(case.cells.g_us[some] - case.goals[some])
        done = report.success if report.success is not None and report.success.any() else np.ones(some.size, np.bool_)
        before = np.abs(case.start[some] - case.goals[some])
        assert error[done].mean() < before[done].mean() / 2, "devices do not come nearer to their goals"
        if watched:
            moved = set(np.flatnonzero(case.cells.g_us != case.start).tolist())
            assert moved <= case.cells.model.changed, "a conductance changes without the device model"  # type: ignore[attr-defined]

    found = []
    shuffled = np.random.default_rng(0).permutation(_N)
    for parts in ((every, every), (shuffled[:150], shuffled[150:], every[400:], every[:400])):
        case = _Case(model, section, target, chip)
        for part in parts:
            case.program(part)
        found.append((case.cells.g_us, case.cells.writes))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True)), "the order of writes, or their split, changes bytes"

    case = _Case(model, section, target, chip | {"device.stuck_low_rate": 0.2})
    before = case.cells.g_us.copy()
    case.program(every)
    stuck = case.cells.stuck
    assert np.array_equal(case.cells.g_us[stuck], before[stuck]), "a stuck device changes"

    case = _Case(model, section, target, chip | {"device.endurance_writes": 1})
    case.cells.writes[some] = 1
    report = case.program(every)
    assert np.array_equal(case.cells.g_us[some], case.start[some]), "a worn device changes"
    assert report.worn >= some.size, "writes to worn devices are not counted"
