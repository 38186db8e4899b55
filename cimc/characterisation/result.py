"""What `cimc.fit_device` returns."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cimc.arguments import checked
from cimc.characterisation.cells import F64
from cimc.characterisation.effect import Effect
from cimc.characterisation.target_text import target_text
from cimc.characterisation.uncertainty import Interval
from cimc.errors import DataError, TargetError
from cimc.files import write_file
from cimc.targets.description import figures_of
from cimc.targets.load import load_target


@dataclass(frozen=True)
class DeviceFit:
    """A device that was fitted to measurements."""

    effects: Mapping[str, Effect]
    """By name of the effect: ``programming error``, ``read noise`` and so on."""

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Values by dotted path, as a target's settings take them: ``cimc.compile(..., settings=fit.figures)``."""
        return {f"device.{path}": value for effect in self.effects.values() for path, value in effect.figures.items()}

    @cached_property
    def section(self) -> dict[str, Any]:
        """The section ``device`` of a target, nested."""
        section: dict[str, Any] = {}
        for path, value in self.figures.items():
            *sections, leaf = path.split(".")[1:]
            node = section
            for name in sections:
                node = node.setdefault(name, {})
            node[leaf] = value
        return section

    @cached_property
    def sources(self) -> dict[str, str]:
        """Files, rows and devices of each figure, by dotted path."""
        return {f"device.{path}": f"[D] fit to {one.source}" for one in self.effects.values() for path in one.figures}

    def source_of(self, interval: str) -> str:
        """Files, rows and devices of an interval, by its name in `intervals`."""
        return next(one.source for one in self.effects.values() if interval.removeprefix("device.") in one.intervals)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % confidence intervals (bootstrap over devices), by dotted path, or by what it is where no field holds it."""
        return {
            f"device.{path}" if path.partition(".")[0] in {name.partition(".")[0] for name in one.figures} else path: interval
            for one in self.effects.values()
            for path, interval in one.intervals.items()
        }

    @cached_property
    def residuals(self) -> dict[str, F64]:
        """By effect: residuals standardised by the fit, ``[records]``."""
        return {name: one.residuals for name, one in self.effects.items() if one.residuals.size}

    @cached_property
    def likelihoods(self) -> dict[str, dict[str, float]]:
        """By effect: log-likelihood (nats) of a record of held-out devices, under each form that was tried."""
        return {name: one.likelihoods for name, one in self.effects.items() if one.likelihoods}

    @cached_property
    def found(self) -> tuple[str, ...]:
        """Effects in the data that no kind of device models, with their figures."""
        return tuple(text for one in self.effects.values() for text in one.found)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the fit left out or took for granted."""
        return tuple(dict.fromkeys(text for one in self.effects.values() for text in one.notes))

    @checked()
    def inherited(self, extends: str = "ideal") -> dict[str, Any]:
        """Figures of the device that are not measured and that a target of this device takes from the one it extends.

        Raises:
            TargetError: There is no such target.
        """
        base = figures_of(load_target(extends))
        own = {path.partition(".")[2].partition(".")[0] for path in self.figures}
        return {path: value for path, value in base.items() if path.startswith("device.") and path.split(".")[1] not in own}

    @checked()
    def to_yaml(self, path: str | Path, extends: str = "ideal", name: str | None = None) -> None:
        """Write a target of this device.

        Args:
            path: The file.
            extends: Target or file that gives the arrays, converters and whatever was not measured. The default has no further
                errors.
            name: Of the target; None: that of the file.

        Raises:
            DataError: The figures make no target, as of columns in a wrong unit.
            CimcError: The file cannot be written, there is no target to extend, or the name is none.
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")[:100] or "device"
        figures = {path: (value, self.sources[path]) for path, value in self.figures.items()}
        below = extends
        if os.path.isfile(extends) and ("/" in extends or extends.endswith((".yaml", ".yml"))):
            below = os.path.join(".", os.path.relpath(extends, Path(path).parent))  # a target's path counts from its folder
        text = target_text(name or stem, below, figures)
        load_target(extends, {"name": name or stem})
        try:
            load_target(extends, self.figures)
        except TargetError as error:
            where = "; ".join(dict.fromkeys(one.source for one in self.effects.values()))
            fix = "check the units of the columns"
            raise DataError(f"the fitted figures make no target: {error.what}", where=where, fix=fix) from None
        write_file(path, text.encode())

    def to_dict(self) -> dict[str, Any]:
        """For machines: section, intervals with the devices that would halve them, likelihoods, findings, notes."""
        return {
            "device": self.section,
            "sources": self.sources,
            "intervals": {name: asdict(one) | {"more_devices": one.more_devices} for name, one in self.intervals.items()},
            "forms": {name: one.form for name, one in self.effects.items()},
            "held_out_log_likelihood": self.likelihoods,
            "residuals": {name: {"mean": float(r.mean()), "deviation": float(r.std())} for name, r in self.residuals.items()},
            "found_not_modelled": list(self.found),
            "notes": list(self.notes),
        }
