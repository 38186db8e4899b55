"""Copies of a layer's crossbars that work at once: each has devices of its own, and they share out the positions.

Position p of an image goes to copy ``p mod copies``; of a layer with one position an image, image i goes to copy
``i mod copies``. Who computes what thus depends on nothing but the numbers of image and position. A copy numbers what it
gets anew, and draws read noise under a key of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.coding import room
from cimc.runtime.plan import Plan
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]


@dataclass(frozen=True)
class SharedPlan(Plan):
    """The plan of the first copy, and those of the others."""

    others: tuple[Plan, ...] = ()

    @classmethod
    def of_copies(cls, plans: Sequence[Plan]) -> SharedPlan:
        """One plan of all copies."""
        first = plans[0]
        return cls(**{field.name: getattr(first, field.name) for field in fields(Plan)}, others=tuple(plans[1:]))

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: Array, constant: Array, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """As `Plan.read`, each copy its share."""
        count, saturated = 1 + len(self.others), 0
        per_image, per_position, per_column = strides
        for copy in range(count):
            key = rng.key(seed, "copy", copy) if copy else seed
            if where.positions > 1:
                share = replace(where, base=np.ascontiguousarray(where.base[copy::count]))
                begin, images, first = copy * per_position, codes, first_image
                steps = (per_image, count * per_position, per_column)
            else:
                offset = (copy - first_image) % count
                own = codes[:, offset::count]
                images, first = room(own.shape, own.dtype), (first_image + offset) // count
                images[...] = own
                share, begin, steps = where, offset * per_image, (count * per_image, per_position, per_column)
            arguments = (images, share, key, first, factor, constant, y[begin:], steps)
            saturated += super().read(*arguments) if copy == 0 else self.others[copy - 1].read(*arguments)
        return saturated
