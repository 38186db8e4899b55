"""Copies of a layer's crossbars that work at once: each has devices of its own, and they share out the positions.

Position p of an image goes to copy ``p mod copies``; of a layer with one position an image, image i goes to copy
``i mod copies``. Who computes what thus depends on nothing but the numbers of image and position. A copy numbers what it
gets anew, and draws read noise under a key of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.backends.interface import Handle
from cimc.runtime.coding import room
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]


@dataclass(frozen=True)
class SharedRead:
    """The reads of all copies of a layer, as one `Handle`."""

    copies: Sequence[Handle]

    @property
    def factor(self) -> Array:
        return self.copies[0].factor

    @property
    def intercept(self) -> Array | None:
        return self.copies[0].intercept

    def refresh(self, spec: ReadSpec, devices: NDArray[np.int64] | None = None) -> bool:
        """Never: a specification is that of one copy."""
        return False

    def refresh_ideal(self, matrix: Array) -> None:
        for copy in self.copies:
            copy.refresh_ideal(matrix)

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: Array, constant: Array, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """As `Handle.read`, each copy its share."""
        count, saturated = len(self.copies), 0
        per_image, per_position, per_column = strides
        for copy, handle in enumerate(self.copies):
            key = rng.key(seed, "copy", copy) if copy else seed
            if where.positions > 1:
                share = replace(where, base=np.ascontiguousarray(where.base[copy::count]))
                begin, images, first = copy * per_position, codes, first_image
                steps = (per_image, count * per_position, per_column)
            else:
                offset = (copy - first_image) % count
                part = codes[:, offset::count]
                images, first = room(part.shape, part.dtype), (first_image + offset) // count
                images[...] = part
                share, begin, steps = where, offset * per_image, (count * per_image, per_position, per_column)
            own = constant
            if handle.intercept is not None and self.intercept is not None:
                # A copy's converters have intercepts of their own.
                own = constant + factor * (handle.intercept - self.intercept)
            saturated += handle.read(images, share, key, first, factor, own, y[begin:], steps)
        return saturated
