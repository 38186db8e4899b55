"""Copies of slow layers: what they take, and which layers are worth it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from cimc.errors import FitError
from cimc.ir.blocks import block_shape, copies_per_array
from cimc.ir.program import Layer
from cimc.targets.description import Target


def crossbars_with_copies(layers: Sequence[Layer], copies: Mapping[str, int], target: Target) -> int:
    """Arrays that these layers take, ``copies`` by name; copies that fit along the diagonal of an array share it."""
    return sum(_crossbars(layer, copies.get(layer.name, 1), target) for layer in layers)


def _crossbars(layer: Layer, copies: int, target: Target) -> int:
    if not layer.row_cuts:
        return 0
    slices, column_tiles = np.indices((len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)).reshape(2, -1)
    fitting = copies_per_array(*block_shape(layer, target, slices, column_tiles), target)
    return layer.groups * int((-(-copies // fitting)).sum())


def auto_copies(
    layers: Sequence[Layer], ops: Mapping[str, int | None], target: Target, crossbars: int | None = None
) -> dict[str, int]:
    """Copies by layer: as long as the budget allows, the slowest layer gets as many more as make it faster.

    Args:
        layers: All layers of the program.
        ops: Operations of each for one image.
        target: The chip.
        crossbars: The budget; None: half as many again as without copies.

    Raises:
        FitError: The budget is below one copy of each layer.
    """
    used = crossbars_with_copies(layers, {}, target)
    budget = used + used // 2 if crossbars is None else crossbars
    if budget < used:
        raise FitError(
            f"one copy of each layer takes {used} crossbars > budget of {budget}, {used - budget} too many",
            where="copies",
            fix=f"--crossbars {used}, or more",
        )
    copies: dict[str, int] = {}
    queue = [(-(ops[layer.name] or 0), k) for k, layer in enumerate(layers)]
    heapq.heapify(queue)
    while queue and -queue[0][0] > 1:
        slowest, k = -queue[0][0], queue[0][1]
        layer = layers[k]
        total = ops[layer.name] or 0
        now = copies.get(layer.name, 1)
        more = -(-total // (slowest - 1))  # the fewest copies that shorten the longest share of positions
        used += _crossbars(layer, more, target) - _crossbars(layer, now, target)
        if used > budget:
            break
        copies[layer.name] = more
        share = -(-total // more)
        heapq.heapreplace(queue, (-share, k))
    return copies
