"""The interface of backends."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding

Array = NDArray[Any]
F64 = NDArray[np.float64]


class Handle(Protocol):
    """A layer made ready to be read."""

    @property
    def factor(self) -> F64:
        """``[groups * columns]``: of the digital sum, for weights times inputs."""

    @property
    def intercept(self) -> F64 | None:
        """``[groups * columns]``: added to the digital sum; None: nothing. A caller puts it into ``constant``."""

    def refresh(self, spec: ReadSpec, devices: NDArray[np.int64] | None = None) -> bool:
        """Take in what the devices hold now; False, and nothing taken in, where the handle must be prepared anew.

        Args:
            spec: The read.
            devices: None but these (flat numbers in ``spec.g_us``) have changed; None: any may have.
        """

    def refresh_ideal(self, matrix: Array) -> None:
        """As `refresh`, of an ideal layer: new weights, ``[groups, rows, columns]``."""

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: F64, constant: F64, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """Read all positions of all images, into ``y``; returns saturated conversions.

        Args:
            codes: Coded images, ``[phases, images, padded image]``; `ReadSpec.coding` made them.
            where: How they form row vectors.
            seed: Key of the noise.
            first_image: Number of the first image, which keys it too.
            factor: Of each column's digital sum, ``[groups * columns]``.
            constant: Added after it, the same shape.
            y: The output, flat; real.
            strides: In it from image to image, position to position and column to column.
        """


class Backend(Protocol):
    """Makes layers ready to be read."""

    name: str

    def prepare(self, spec: ReadSpec, positions: int) -> Handle:
        """A handle of a read.

        Args:
            spec: What it does.
            positions: Of an image, likely; results do not depend on it, speed may.
        """

    def prepare_ideal(self, matrix: Array) -> Handle:
        """A handle of a layer that multiplies by its weights, ``[groups, rows, columns]``, in their own precision."""
