"""Devices that hold one conductance whatever their goal is, from program-and-verify records."""

from __future__ import annotations

import numpy as np

from cimc.characterisation.effect import Effect
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, share_interval

#: A device is stuck where a constant explains its read-backs so many times better than its goals do.
_BETTER = 9.0
#: Goals of a device must spread over this many deviations of the error before it can be told.
_SPREAD = 4.0


def without_stuck(written: Measured) -> tuple[Measured, Effect | None]:
    """The records of devices that follow their goals, and the rates of those that do not; None: the records cannot tell."""
    goal, read, device = written["goal_us"], written["read_us"], written.device
    size = len(written.devices)
    number = np.maximum(np.bincount(device, minlength=size), 1)

    def about_mean(values: np.ndarray) -> np.ndarray:
        mean = np.bincount(device, values, minlength=size) / number
        found: np.ndarray = np.bincount(device, (values - mean[device]) ** 2, minlength=size)
        return found

    sigma_us = np.median(np.abs(read - goal)) / 0.6745
    told = (number >= 3) & (about_mean(goal) > number * (_SPREAD * sigma_us) ** 2 / 4) & (about_mean(goal) > 0)
    if told.sum() < FEWEST:
        return written, None
    missed = np.bincount(device, (read - goal) ** 2, minlength=size)
    stuck = told & (_BETTER * about_mean(read) < missed)
    held_us = np.bincount(device, read, minlength=size) / number
    low_us, high_us = float(goal.min()), float(goal.max())
    middle_us, near_us = (low_us + high_us) / 2, 0.15 * (high_us - low_us) + 3 * sigma_us
    low, high = int((stuck & (held_us < middle_us)).sum()), int((stuck & (held_us >= middle_us)).sum())
    between = int((stuck & (held_us > low_us + near_us) & (held_us < high_us - near_us)).sum())
    devices = int(told.sum())
    rates = {"stuck_low_rate": share_interval(low, devices), "stuck_high_rate": share_interval(high, devices)}
    effect = Effect(
        {name: round(one.value, 6) for name, one in rates.items()},
        f"{written.source}, {low + high} of {devices} devices stuck",
        rates,
        form="share of devices",
        found=(f"{between} stuck devices hold a conductance between the ends; the simulation puts them at an end",)
        * bool(between),
    )
    return written.rows(~stuck[device]), effect
