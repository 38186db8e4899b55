"""How the step of a pulse grows with its amplitude, as write-verify uses it: from pulse trains of several amplitudes."""

from __future__ import annotations

import numpy as np

from cimc.characterisation.cells import F64
from cimc.characterisation.effect import Effect, rounded
from cimc.characterisation.pulses import spreads
from cimc.characterisation.reader import Measured
from cimc.characterisation.uncertainty import FEWEST, interval, positive_interval, resamples

#: Amplitudes of each polarity that a growth needs, and pulses of each.
_AMPLITUDES, _PULSES = 3, 20


def fit_amplitudes(trains: Measured, read_sigma_us: float | None, seed: int) -> Effect | None:
    """``write_verify``: steps at the lowest amplitude, the amplitude that doubles them, and spreads; None: too few amplitudes.

    A mean step is ``first * 2^((amplitude - start_v) / doubling_v)``: a line through the logarithms of the mean steps, with one
    slope for both polarities.

    Args:
        trains: The records.
        read_sigma_us: Read noise, which is taken off the spreads; None: not measured.
        seed: Of the resamples.
    """
    if "amplitude_v" not in trains.columns:
        return None
    _, device = np.unique(trains.device, return_inverse=True)
    devices = int(device.max()) + 1
    rising, volt = trains["polarity"] > 0, np.abs(trains["amplitude_v"])
    moved = np.where(rising, 1.0, -1.0) * (trains["after_us"] - trains["before_us"])
    kinds, kind = np.unique(np.stack([rising, volt]), axis=1, return_inverse=True)
    kind, up, at_v = kind.reshape(-1), kinds[0] > 0, kinds[1]
    place, size = device * at_v.size + kind, devices * at_v.size
    count = np.bincount(place, minlength=size).reshape(devices, -1).astype(np.float64)
    total = np.bincount(place, moved, minlength=size).reshape(devices, -1)
    used = (count.sum(axis=0) >= _PULSES) & (total.sum(axis=0) > 0)
    if devices < FEWEST or min((used & up).sum(), (used & ~up).sum()) < _AMPLITUDES:
        return None
    start_v, stop_v = float(at_v[used].min()), float(at_v[used].max())
    design = np.stack([up[used], ~up[used], at_v[used] - start_v], axis=1).astype(np.float64)
    solve = np.linalg.pinv(design)

    def figures(weights: F64) -> F64:
        """Step of SET and of RESET at the lowest amplitude, and doublings per volt; ``[resamples, 3]``."""
        mean = (weights @ total)[:, used] / np.maximum((weights @ count)[:, used], 1)
        lines = np.log2(np.maximum(mean, 1e-12)) @ solve.T
        found: F64 = np.concatenate([2 ** lines[:, :2], lines[:, 2:]], axis=1)
        return found

    (whole,), drawn = figures(np.ones((1, devices))), figures(resamples(devices, seed))
    steps = {
        f"write_verify.{name}": positive_interval(float(whole[n]), drawn[:, n], devices)
        for n, name in enumerate(("set_us", "reset_us"))
    }
    growth = interval(float(whole[2]), drawn[:, 2], devices)
    grows = growth.low > 0
    expected = np.where(rising, whole[0], whole[1]) * 2 ** ((volt - start_v) * (whole[2] if grows else 0.0))
    own = used[kind]
    noise = 2 * (read_sigma_us or 0.0) ** 2 / expected**2
    spread, dead, residuals = spreads(device[own], (moved / expected)[own], noise[own], seed)
    intervals = steps | {f"write_verify.{name}": one for name, one in spread.items()}
    intervals["doublings of a pulse's step per volt"] = growth
    paths = {path: rounded(one.value) for path, one in intervals.items() if path.startswith("write_verify")}
    paths |= {"write_verify.start_v": rounded(start_v), "write_verify.stop_v": rounded(stop_v)}
    paths["write_verify.step_v"] = rounded(float(np.diff(np.unique(at_v[used])).min()))
    values = paths | {"write_verify.doubling_v": rounded(1 / growth.value) if grows else None}
    notes = () if grows else ("the step of a pulse does not clearly grow with its amplitude: doubling_v is null",)
    source = f"{trains.source}, {devices} devices, {int(used.sum())} amplitudes"
    found = (dead,) if dead else ()
    return Effect(values, source, intervals, {}, "doubling with the amplitude", residuals, found, notes)
