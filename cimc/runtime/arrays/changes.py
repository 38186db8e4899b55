"""What has happened to a layer's devices since a reader last looked at them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


class Changes:
    """Changes of the devices of one layer, kept for one reader; from `LayerArrays.watch`.

    Attributes:
        anew: Whether what was derived from the devices must be made anew: they are other devices, or all of them moved.
    """

    def __init__(self) -> None:
        self.anew = True
        self._parts: list[I64] | None = []

    def add(self, devices: I64 | None) -> None:
        """Devices (flat numbers in ``g_us``) of the first copy were written; None: any of them."""
        if devices is None:
            self._parts = None
        elif self._parts is not None:
            self._parts.append(devices)

    def clear(self) -> None:
        """The reader has taken all changes in."""
        self.anew, self._parts = False, []

    @property
    def some(self) -> bool:
        """Whether devices were written."""
        return self._parts is None or bool(self._parts)

    @property
    def written(self) -> I64 | None:
        """Devices that were written, flat numbers in the order of writing, ``[n]``; None: any."""
        return None if self._parts is None else np.concatenate([np.empty(0, np.int64), *self._parts])
