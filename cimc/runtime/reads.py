"""The compiled reads on all threads, each with its room."""

from __future__ import annotations

from functools import lru_cache
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import gemm, kernels, narrow
from cimc.runtime.atomic import bound
from cimc.runtime.circuit import Circuit, Inputs, Lines, Outputs
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.runtime.simd import VECTOR
from cimc.runtime.team import Crew, crew, share

Array = NDArray[Any]

#: Rows of a block, at most.
_HEIGHT = 96
#: Bytes of a block of positions, about, and its positions, at most: long passes outweigh the second-level cache.
_ACROSS_BYTES, _ACROSS = 1 << 19, 512


class Room(NamedTuple):
    """Most that a block of a layer takes."""

    rows: int
    """Padded."""
    columns: int
    device_columns: int
    """Padded, with unit columns."""


@kernel()
def _share_along(
    crew: Crew, tasks: Scalar, height: Scalar, circuit: Circuit, lines: Lines | None, inputs: Inputs, outputs: Outputs,
    room: kernels.Scratch,
) -> Scalar:  # fmt: skip
    saturated = np.zeros(crew.helpers + 1, np.int64)
    share(crew, tasks, bound(kernels.read, (height, circuit, lines, inputs, outputs, room, saturated)))
    return saturated.sum()


@kernel()
def _share_across(
    crew: Crew, blocks: Scalar, height: Scalar, circuit: Circuit, lines: Lines | None, inputs: Inputs, outputs: Outputs,
    room: narrow.Scratch,
) -> Scalar:  # fmt: skip
    saturated = np.zeros(crew.helpers + 1, np.int64)
    share(crew, blocks, bound(narrow.read, (height, circuit, lines, inputs, outputs, room, saturated)))
    return saturated.sum()


def along(circuit: Circuit, lines: Lines | None, inputs: Inputs, outputs: Outputs, total: int, number: int, room: Room) -> int:
    """Read with vectors along columns; returns saturated conversions.

    Args:
        circuit: The layer.
        lines: What its lines have of their own.
        inputs: Its inputs.
        outputs: Its outputs.
        total: Positions of all images.
        number: Threads.
        room: Of a block.
    """
    matrix = circuit.matrix
    columns_of_blocks = len(circuit.blocks) * len(matrix)
    row_blocks = max(1, -(-total // _HEIGHT), number // columns_of_blocks)
    height = -(-total // (row_blocks * gemm.TALL)) * gemm.TALL
    scratch = kernels.scratch(number, height, room.rows, room.columns, room.device_columns, matrix.dtype)
    tasks = -(-total // height) * columns_of_blocks
    return int(_share_along(crew(number), tasks, height, circuit, lines, inputs, outputs, scratch))


def across(circuit: Circuit, lines: Lines | None, inputs: Inputs, outputs: Outputs, total: int, number: int, room: Room) -> int:
    """Read a narrow layer, with vectors along positions; arguments and result as of `along`."""
    _, _, planes, columns = circuit.alpha.shape
    units = int(circuit.blocks[-1, 3])
    bytes_of_position = 2 * room.rows + (4 * planes + 8) * columns
    height = min(_ACROSS, max(32, _ACROSS_BYTES // bytes_of_position), -(-total // number))
    # Whole turns of a loop, and of vectors of `gather`.
    height = -(-height // VECTOR) * VECTOR
    scratch = _kept(get_ident(), number, height, room.rows, columns, planes * columns, units)
    return int(_share_across(crew(number), -(-total // height), height, circuit, lines, inputs, outputs, scratch))


@lru_cache(maxsize=64)
def _kept(_caller: int, *sizes: int) -> narrow.Scratch:
    """A caller's `narrow.scratch`: the page faults of fresh memory take as long as a read."""
    return narrow.scratch(*sizes)
