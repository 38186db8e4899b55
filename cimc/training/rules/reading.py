"""Reading single weights back from their devices."""

from __future__ import annotations

import numpy as np

from cimc.runtime.jit import kernel
from cimc.runtime.programmers.draws import device_key, draw
from cimc.training.accumulator import F32, I64, U32, goal_us, steps_of


@kernel(error_model="numpy")
def read_back(
    touched: I64, g_us: F32, updates: U32, weights: F32, written_us: F32, w_max: F32, full: float, shift: float, pair: bool,
    whole: bool, step_us: float, g_min_us: float, sigma_us: F32, seed: int, note: bool,
) -> None:  # fmt: skip
    """Set W of the weights in ``touched`` (flat numbers) to what one read of their devices gives.

    The noise is drawn for the device and the weight's number of updates, so that every read is a new one. Snapped to
    levels where ``whole``; with ``note``, the goals of that weight count as written.
    """
    _, rows, columns = weights.shape
    planes = written_us.shape[2]
    for i in range(touched.size):
        row, c = divmod(touched[i], columns)
        g, r = divmod(row, rows)
        steps = -shift
        for p in range(planes):
            d = (row * planes + p) * columns + c
            sigma = sigma_us[d] if sigma_us.size > 1 else sigma_us[0]
            read = g_us[d] + sigma * draw(device_key(seed, d, updates[g, r, c]), 0)
            steps += (-1.0 if p else 1.0) * (read - (0.0 if pair else g_min_us)) / step_us
        span = np.float64(w_max[g, c])
        steps = steps_of(steps / full * span, span, full, shift, whole)
        weights[g, r, c] = steps / full * span
        if note:
            for p in range(planes):
                written_us[g, r, p, c] = goal_us(steps, p, pair, shift, step_us, g_min_us)
