"""Read noise from repeated reads of devices that are not written in between.

The variance of a device is half the mean square of successive differences, so that slow changes do not count as read noise.
"""

from __future__ import annotations

import numpy as np

from cimc.characterisation.cells import F64, I64, Cells, binned, grouped, statistics
from cimc.characterisation.effect import Effect, need, rounded
from cimc.characterisation.normal_fit import Form, Linear
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, chosen, figures

#: Reads of a device before it says anything of its noise.
_READS = 4


def fit_reads(reads: Measured, seed: int) -> Effect:
    """``read_sigma_us``, or a table over the conductance where held-out devices are more likely with it.

    Raises:
        DataError: Too few devices have enough reads.
    """
    order = np.lexsort((reads["time_s"], reads.device))
    device, value = reads.device[order], reads["read_us"][order]
    number = np.bincount(device).astype(np.int64)
    need(int((number >= _READS).sum()), FEWEST, f"devices with {_READS} reads or more", reads.source)
    same = (device[1:] == device[:-1]) & (number[device[1:]] >= _READS)
    owner, step = device[1:][same], np.diff(value)[same] / np.sqrt(2)
    mean = np.bincount(device, value, minlength=number.size) / np.maximum(number, 1)
    centre, cell = binned(mean[owner])
    group, groups = grouped(owner)
    cells = statistics(group, groups, cell, centre.size, step)
    cells = Cells(cells.count, np.zeros_like(cells.total), cells.squares)  # differences have mean 0
    forms, knots = _forms(centre)
    devices = int(np.unique(owner).size)
    form, likelihoods = chosen(forms, cells, seed, clearly=2.0)
    _, intervals = figures(form, cells, devices, seed, lambda c: np.maximum(c, 0))
    residuals = step / np.maximum(form.moments(form.fit(cells.whole))[1][0][cell], 1e-30)
    source = f"{reads.source}, {devices} devices"
    found = _slow(device, value, mean, number, step, owner)
    if form.name == "constant":
        (only,) = intervals
        return Effect(
            {"read_noise": None, "read_sigma_us": rounded(only.value)}, source, {"read_sigma_us": only}, likelihoods, form.name,
            residuals, found, reads.notes,
        )  # fmt: skip
    g_us = knots[form.name]
    table = {
        "read_sigma_us": 0.0,
        "read_noise.kind": "table",
        "read_noise.g_us": [rounded(g) for g in g_us],
        "read_noise.sigma_us": [rounded(one.value) for one in intervals],
    }
    named = {f"read noise at {g:.4g} µS": one for g, one in zip(g_us, intervals, strict=True)}
    return Effect(table, source, named, likelihoods, form.name, residuals, found, reads.notes)


def _forms(centre: F64) -> tuple[list[Form], dict[str, F64]]:
    """A constant, and tables of some knots between the least and the largest conductance."""
    none, known = np.zeros((centre.size, 0)), np.zeros(centre.size)
    forms: list[Form] = [Linear("constant", none, np.ones((centre.size, 1)), known)]
    knots = {}
    for count in (2, 3, 5):
        if centre.size >= 2 * count:
            at = np.maximum(np.linspace(centre[0], centre[-1], count), 0)
            hats = np.stack([np.interp(centre, at, one) for one in np.eye(count)], axis=1)
            name = f"table of {count}"
            knots[name] = at
            forms.append(Linear(name, none, hats, known))
    return forms, knots


def _slow(device: I64, value: F64, mean: F64, number: I64, step: F64, owner: I64) -> tuple[str, ...]:
    """Noise that holds over several reads: what devices vary about their mean beyond what successive reads differ by."""
    enough = number >= _READS
    square = np.bincount(device, (value - mean[device]) ** 2, minlength=number.size)
    about = square[enough] / (number[enough] - 1)
    between = (np.bincount(owner, step * step, minlength=number.size) / np.maximum(number - 1, 1))[enough]
    excess = about - between
    error = excess.std() / np.sqrt(excess.size)
    if excess.mean() <= 4 * error:
        return ()
    return (
        f"noise or drift that holds over several reads: {np.sqrt(excess.mean()):.3g} µS beside the read noise; "
        "device.slow_noise.sigma_us models it, if held_images is known",
    )
