"""Copies of slow layers: what they take, and which layers are worth it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from cimc.errors import CimcError, FitError
from cimc.ir.blocks import block_shape, check_copies, copies_per_array
from cimc.ir.occupancy import firings
from cimc.ir.records import Layer, ProgramRecord, position_firings
from cimc.targets.description import Target

#: Devices of all copies of a layer; a device takes two float32.
MOST_BYTES = 1 << 40
_BYTES_PER_DEVICE = 8


def crossbars_with_copies(layers: Sequence[Layer], copies: Mapping[str, int], target: Target) -> int:
    """Arrays that these layers take, ``copies`` by name; copies that fit along the diagonal of an array share it."""
    return sum(_crossbars(layer, copies.get(layer.name, 1), target) for layer in layers)


def _crossbars(layer: Layer, copies: int, target: Target) -> int:
    if not layer.row_cuts:
        return 0
    slices, column_tiles = np.indices((len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)).reshape(2, -1)
    fitting = copies_per_array(*block_shape(layer, target, slices, column_tiles), target)
    return layer.groups * int((-(-copies // fitting)).sum())


def crossbars_as_published(layers: Sequence[Layer], copies: Mapping[str, int], target: Target) -> int:
    """The same as Wu et al., arXiv 2305.14547, count in their table 2.

    Two copies of a layer that is not cut in rows share an array where it has word lines for both, also where they need the same
    bit lines. Copies that fire at once cannot: their currents would add up.
    """
    total = 0
    for layer in layers:
        n = copies.get(layer.name, 1)
        shared = len(layer.row_cuts) == 2 and target.array.rows is not None and 2 * layer.rows <= target.array.rows
        two = layer.crossbars * -(-n // 2) if shared else layer.crossbars * n
        total += min(two, _crossbars(layer, n, target))
    return total


def _faster(program: ProgramRecord, layer: Layer, slowest: int) -> tuple[int, int]:
    """The fewest copies of which each fires less often than ``slowest``, and how often that is."""
    total, phases = firings(program, layer) or 0, position_firings(layer, program.target)
    copies = -(-total // phases // max(1, (slowest - 1) // phases))
    while (share := firings(program, layer, copies) or 0) >= slowest:
        copies += 1
    return copies, share


def sensible_copies(copies: Mapping[str, int], program: ProgramRecord) -> Mapping[str, int]:
    """As `check_copies`; and CimcError for copies that would never fire, or that take more memory than `MOST_BYTES`."""
    check_copies(copies, program)
    for layer in program.layers:
        count = copies.get(layer.name, 1)
        positions = [step.positions for step in program.vmm_steps if step.layer == layer.name]
        most = max((p for p in positions if p is not None), default=0)
        # Of a layer with one position an image, each image goes to another copy.
        if most > 1 and None not in positions and count > most:
            raise CimcError(
                f"{count} copies of layer {layer.name}, which has {most} positions an image: {count - most} would never fire",
                where="copies",
                fix=f"at most {most}",
            )
        size = _BYTES_PER_DEVICE * layer.groups * layer.rows * layer.columns * program.target.planes
        if count > 1 and count * size > MOST_BYTES:
            raise CimcError(
                f"{count} copies of layer {layer.name} are {count * size / 1e9:,.0f} GB of devices",
                where="copies",
                fix=f"at most {MOST_BYTES // size or 1}",
            )
    return copies


def auto_copies(program: ProgramRecord, crossbars: int | None = None) -> dict[str, int]:
    """Copies by layer: as long as the budget allows, the slowest layer gets as many more as make it faster.

    Args:
        program: From pass `tile` on.
        crossbars: The budget; None: half as many again as without copies.

    Raises:
        FitError: The budget is below one copy of each layer.
    """
    layers, target = program.layers, program.target
    used = crossbars_with_copies(layers, {}, target)
    budget = used + used // 2 if crossbars is None else crossbars
    if budget < used:
        raise FitError(
            f"one copy of each layer takes {used} crossbars > budget of {budget}, {used - budget} too many",
            where="copies",
            fix=f"--crossbars {used}, or more",
        )
    copies: dict[str, int] = {}
    queue = [(-(firings(program, layer) or 0), k) for k, layer in enumerate(layers)]
    heapq.heapify(queue)
    while queue and -queue[0][0] > position_firings(layers[queue[0][1]], target):
        slowest, k = -queue[0][0], queue[0][1]
        layer = layers[k]
        now = copies.get(layer.name, 1)
        more, share = _faster(program, layer, slowest)
        used += _crossbars(layer, more, target) - _crossbars(layer, now, target)
        if used > budget:
            break
        copies[layer.name] = more
        heapq.heapreplace(queue, (-share, k))
    return copies
