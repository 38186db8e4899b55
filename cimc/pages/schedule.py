"""The schedule of an image as a time line."""

from __future__ import annotations

import numpy as np

from cimc.ir.program import Program, position_firings
from cimc.pages.parts import Section, Table
from cimc.report.pictures import Bars, Picture, shown
from cimc.targets.stated import as_known


def schedule_section(program: Program) -> Section | None:
    """When each crossbar step of one image fires; None where the number of its positions is not known, or there is no step."""
    steps = sorted(program.vmm_steps, key=lambda step: step.stage)
    if not steps or any(step.positions is None for step in steps):
        return None
    firings = [(step.positions or 0) * position_firings(program.layer(step.layer), program.target) for step in steps]
    duration_ns = as_known(program.target).timing.tile_op_ns
    unit = "operations" if duration_ns is None else "ms"
    length = np.array(firings, np.float64) * (1.0 if duration_ns is None else duration_ns / 1e6)
    start = np.cumsum(length) - length
    names = [step.name for step in steps]
    kept, cut = shown(names, length, "steps")
    about = (
        f"One image alone, a layer after the other, each without copies: {float(length.sum()):.4g} {unit} in all. "
        "Layers of one stage, and those of different images, fire at once where they lie on different arrays. "
        f"Digital work takes no time here, as it is not modelled.{cut}"
    )
    bars = Bars("fires", [names[k] for k in kept], length[kept], start[kept])
    picture = Picture("Schedule of an image", f"time, {unit}", "", about=about, bars=[bars])
    rows = [
        (step.name, step.layer, step.stage, step.positions, count, at, at + long)
        for step, count, at, long in zip(steps, firings, start.tolist(), length.tolist(), strict=True)
    ]
    columns = ("step", "layer", "stage", "positions", "operations", f"from, {unit}", f"to, {unit}")
    return Section("Schedule", [], [], [picture], [Table("Crossbar steps in the order in which they fire", columns, rows)])
