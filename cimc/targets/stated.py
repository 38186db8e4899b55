"""Which settings a figure was stated for, so that it does not stand for others in silence.

A time or energy of a 64x64 array says nothing of a 128x64 one. So each figure of `COST` and `DERIVED` remembers the values that
the fields it depends on had where it was stated: in its file with what that extends, or beside it in the settings. Where a later
file or setting changes one of these fields and not the figure, ``Target.stated_for`` has the old values. Cost takes such a
figure for unknown (`as_known`). A derived one stays in use, as the simulation needs it; ``cimc targets validate`` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cimc.targets.description import Section, Target, field_table, figures_of, unit_of
from cimc.targets.figures import Figures

_WINDOW = ("device.g_min_us", "device.g_max_us")
_READ = (
    "array.rows", "array.columns", "array.unit_column", "dac.bits", "adc.bits", "adc.conversion", "device.read_voltage_v",
    *_WINDOW,
)  # fmt: skip
_BACK = (*_READ, "array.transposed.dac_bits", "array.transposed.adc_bits")
_VERIFY = "device.write_verify"
_TRAIN = tuple(f"{_VERIFY}.{name}" for name in ("start_v", "stop_v", "step_v", "tolerance_us", "trials"))

#: Measured times and energies, and the fields that each holds for.
COST: Mapping[str, tuple[str, ...]] = {
    "timing.tile_op_ns": _READ,
    "timing.tile_op_energy_nj": _READ,
    "array.transposed.tile_op_ns": _BACK,
    "array.transposed.tile_op_energy_nj": _BACK,
    "timing.programming_ns": (*_WINDOW, "device.levels", *_TRAIN),
    "timing.programming_energy_nj": (*_WINDOW, "device.levels", *_TRAIN),
    f"{_VERIFY}.pulse_energy_nj": (*_WINDOW, *_TRAIN[:2]),
    f"{_VERIFY}.verify_ns": ("adc.bits",),
    f"{_VERIFY}.verify_energy_nj": ("adc.bits", "device.read_voltage_v", *_WINDOW),
    "device.pulse.pulse_energy_nj": _WINDOW,
}
#: Figures that are usually chosen as parts of the window or of a level step.
DERIVED: Mapping[str, tuple[str, ...]] = {
    f"{_VERIFY}.tolerance_us": (*_WINDOW, "device.levels"),
    f"{_VERIFY}.set_us": _WINDOW,
    f"{_VERIFY}.reset_us": _WINDOW,
    f"{_VERIFY}.verify_sigma_us": _WINDOW,
    "device.pulse.up_us": _WINDOW,
    "device.pulse.down_us": _WINDOW,
    "device.read_sigma_us": (*_WINDOW, "device.read_voltage_v"),
    "device.programming.mean_us": _WINDOW,
    "device.programming.sigma_us": _WINDOW,
    "device.born_us": _WINDOW,
}
_FIELDS = {**COST, **DERIVED}

S = TypeVar("S", bound=Section)


def remembered(figures: Figures, new: Figures) -> Figures:
    """The figures of a chip, those of ``new`` with the values of the fields that they depend on."""
    made = dict(figures)
    for path in new.keys() & _FIELDS.keys() & figures.keys():
        now = {field: _value(figures, field) for field in _FIELDS[path]}
        made[path] = replace(figures[path], stated_for=now | dict(figures[path].stated_for or {}))
    return made


def changed_since(figures: Figures) -> dict[str, dict[str, Any]]:
    """By figure that is not null: fields whose value differs from that it was stated for, with the latter."""
    found = {}
    for path, figure in figures.items():
        if figure.value is not None and figure.stated_for:
            old = {field: value for field, value in figure.stated_for.items() if _value(figures, field) != value}
            if old:
                found[path] = old
    return found


def _value(figures: Figures, path: str) -> Any:
    return figures[path].value if path in figures else field_table()[path].default


def as_known(target: Target) -> Target:
    """The target without times and energies that were stated for other settings."""
    unknown = [path.split(".") for path in target.stated_for if path in COST]
    return _without(target, unknown) if unknown else target


def _without(section: S, paths: list[list[str]]) -> S:
    """A copy with these figures null."""
    changes: dict[str, Any] = {}
    for name in {path[0] for path in paths}:
        inner, value = [path[1:] for path in paths if path[0] == name], getattr(section, name)
        changes[name] = _without(value, inner) if isinstance(value, Section) else None
    return section.model_copy(update=changes)


def sentence(target: Target, path: str) -> str:
    """What a figure of ``stated_for`` stands for."""
    figures, old = figures_of(target), target.stated_for[path]
    now = " and ".join(f"{field} {figures.get(field)}" for field in old)
    then = " and ".join(str(value) for value in old.values())
    return f"{path} {figures.get(path)} {unit_of(path)}".rstrip() + f" was stated for {then}, not for {now}"


def unknown_costs(target: Target, paths: tuple[str, ...] = tuple(COST)) -> tuple[str, ...]:
    """A sentence for each of these times and energies that cost does not use."""
    return tuple(f"not used: {sentence(target, path)}" for path in paths if path in target.stated_for)
