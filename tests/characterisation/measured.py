"""Measurements of devices whose hidden parameters are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Programming error of NeuRRAM at 1 s, as aihwkit publishes it (Wan et al. 2022): deviation in µS over goal / 40 µS.
NEURRAM = (0.348, 16.030, -43.853, 45.393, -16.815)


def csv(path: Path, **columns: NDArray) -> Path:
    """A file of these columns."""
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def programming(path: Path, random, sigma_us, devices=60, goals_us=None, mean_us=0.0, noise=None, read_us=0.0, repeats=1) -> Path:
    """Program-and-verify records: each device written to each goal; ``sigma_us`` is a function of the goal."""
    goals = np.linspace(1.0, 40.0, 9) if goals_us is None else np.asarray(goals_us, float)
    device = np.repeat(np.arange(devices), goals.size * repeats)
    goal = np.tile(np.repeat(goals, repeats), devices)
    normal = random.standard_normal(goal.size) if noise is None else noise(goal.size)
    read = goal + mean_us + sigma_us(goal) * normal + read_us * random.standard_normal(goal.size)
    return csv(path, device=device, goal_us=goal, read_us=read)


def reads(path: Path, random, sigma_us, devices=40, count=30, slow_us=0.0) -> Path:
    """Repeated reads of devices between 1 and 40 µS; ``sigma_us`` is a function of the conductance."""
    g_us = np.repeat(np.linspace(1.0, 40.0, devices), count)
    time = np.tile(np.arange(float(count)), devices)
    walk = slow_us * np.repeat(random.standard_normal(devices * (count // 10)), 10)
    return csv(
        path,
        device=np.repeat(np.arange(devices), count),
        time_s=time,
        read_us=g_us + walk + sigma_us(g_us) * random.standard_normal(g_us.size),
    )


def retention(path: Path, random, later, devices=80, ages_s=(1, 10, 100, 1e3, 1e4, 1e5), read_us=0.0) -> Path:
    """Conductances over time; ``later(g_us, ln t, normal of the device)`` gives what a device holds at each age."""
    growth = np.log(np.array(ages_s, float))
    g_us = np.linspace(5.0, 40.0, devices)[:, None]
    held = later(g_us, growth, random.standard_normal((devices, 1))) + read_us * random.standard_normal((devices, growth.size))
    device, age = np.divmod(np.arange(held.size), growth.size)
    return csv(path, device=device, age_s=np.array(ages_s, float)[age], g_us=held.reshape(-1))


def pulses(path: Path, random, shape, devices=60, count=60, cycle=0.3, spread=0.2, dead=0, up_us=1.0, down_us=0.8) -> Path:
    """Trains of ``count`` up and ``count`` down pulses over 0 to 40 µS.

    ``shape`` gives the step, over that at the middle, of the room that is left, 0 to 2.
    """
    g_us = np.full(devices, 4.0)
    factor = np.maximum(1 + spread * random.standard_normal(devices), 0) * (np.arange(devices) >= dead)
    rows = []
    for number in range(2 * count):
        rising = number < count
        room = (40 - g_us) / 20 if rising else g_us / 20
        step = (up_us if rising else -down_us) * shape(room) * factor * (1 + cycle * random.standard_normal(devices))
        after = np.clip(g_us + step, 0, 40)
        rows.append((np.arange(devices), np.full(devices, number), np.full(devices, 1 if rising else -1), g_us, after))
        g_us = after
    columns = (np.concatenate(values) for values in zip(*rows, strict=True))
    return csv(path, **dict(zip(("device", "pulse", "polarity", "before_us", "after_us"), columns, strict=True)))
