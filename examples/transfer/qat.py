"""Quantisation-aware training of the LeNet in plain numpy: a chip sees one of its levels for each weight, the gradient does not.

The forward and backward pass use weights rounded to the 16 levels of a device, on either side of zero; the gradient goes to
FP32 weights behind them as it is (the straight-through estimator of Bengio, Léonard, Courville 2013, arXiv 1308.3432).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cimc.training import optimizers, schedules

sys.path.insert(0, str(Path(__file__).parents[1] / "lenet_mnist"))
from make_model import WINDOWS, Weights, gradients, initial_weights

#: Level steps from no weight to the largest: devices have 16 levels.
STEPS_OF_FULL_WEIGHT = 15


def quantised(weights: Weights) -> Weights:
    """Weights on the levels; the largest level is the end of the layer's window."""
    levels = {}
    for name, w in weights.items():
        step = WINDOWS[name] / STEPS_OF_FULL_WEIGHT
        levels[name] = (np.clip(np.rint(w / step), -STEPS_OF_FULL_WEIGHT, STEPS_OF_FULL_WEIGHT) * step).astype(np.float32)
    return levels


@threadpool_limits.wrap(limits=1)  # products this small are slower on several threads
def train(x: NDArray[np.float32], y: NDArray[Any], *, epochs: int, steps: int, batch: int, rate: float, seed: int) -> Weights:
    """AdamW on a cosine, as the other models are trained; the quantised weights.

    Args:
        x: Images ``[n, 28, 28]``, 0...1.
        y: Labels.
        epochs: Of ``steps`` random batches each.
        seed: Of the initial weights and of the order of the images.
    """
    random = np.random.default_rng(seed)
    weights, total = initial_weights(random), epochs * steps
    optimizer, schedule = optimizers.create("adamw"), schedules.create("cosine", rate)
    order = np.concatenate([random.permutation(len(x)) for _ in range(1 + total * batch // len(x))])
    for step in range(total):
        chosen = order[step * batch :][:batch]
        slopes, _ = gradients(quantised(weights), x[chosen], y[chosen])
        changes = optimizer.step(slopes, weights, schedule.rate(step, total, step // steps))
        weights = {name: np.clip(w + changes[name], -WINDOWS[name], WINDOWS[name]) for name, w in weights.items()}
    return quantised(weights)
