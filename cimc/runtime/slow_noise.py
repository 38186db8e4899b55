"""Slow noise: conductances that differ from block of images to block of images, and hold within one.

A block of ``held_images`` images reads ``g + (sigma_us + relative * g) * n``, never below 0, with one draw n a device and block:
+1 or -1 of telegraph noise, else standard normal. A draw's key is that of the read (chip, step, purpose) and the block's
number, so a batch may be split anywhere. A layer that several steps of a model read draws for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.backends.interface import Handle
from cimc.runtime.coding import room
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding
from cimc.targets.time_sections import SlowNoise

Array = NDArray[Any]
F32 = NDArray[np.float32]


@dataclass
class SlowRead:
    """The read of one copy of a layer whose devices have slow noise, as a `Handle`."""

    spec: ReadSpec
    """Of the devices without it."""
    noise: SlowNoise
    prepare: Callable[[ReadSpec], Handle]
    """Of the backend."""
    inner: Handle = field(init=False)

    def __post_init__(self) -> None:
        self.inner = self.prepare(self.spec)

    @property
    def factor(self) -> Array:
        return self.inner.factor

    @property
    def intercept(self) -> Array | None:
        return self.inner.intercept

    def refresh(self, spec: ReadSpec, devices: NDArray[np.int64] | None = None) -> bool:
        """Take in what the devices hold now: every read makes its own of it."""
        self.spec = spec
        return True

    def refresh_ideal(self, matrix: Array) -> None:
        """Never: an ideal layer has no devices."""
        raise RuntimeError("an ideal layer has no slow noise")

    def read(
        self, codes: Array, where: Unfolding, seed: int, first_image: int, factor: Array, constant: Array, y: Array,
        strides: tuple[int, int, int],
    ) -> int:  # fmt: skip
        """As `Handle.read`, block after block."""
        images, held, saturated, done = codes.shape[1], self.noise.held_images, 0, 0
        while done < images:
            block, inside = divmod(first_image + done, held)
            end = min(images, done + held - inside)
            now = self._at(rng.key("slow", seed, block))
            if not self.inner.refresh(now):
                self.inner = self.prepare(now)
            part = codes[:, done:end]
            own = room(part.shape, part.dtype)
            own[...] = part
            saturated += self.inner.read(
                own, where, seed, first_image + done, factor, constant, y[done * strides[0] :], strides
            )  # fmt: skip
            done = end
        return saturated

    def _at(self, key: int) -> ReadSpec:
        """What a read of one block sees."""
        spec = self.spec
        return replace(
            spec,
            g_us=self._moved(spec.g_us, rng.key(key, "devices")),
            unit_g_us=self._moved(spec.unit_g_us, rng.key(key, "units")),
        )

    def _moved(self, g_us: F32, key: int) -> F32:
        draws = rng.normals(key, 0, g_us.size).reshape(g_us.shape)
        if self.noise.states == "two":
            draws = np.copysign(np.float32(1), draws)
        moved: F32 = g_us + (np.float32(self.noise.sigma_us) + np.float32(self.noise.relative) * g_us) * draws
        return np.maximum(moved, np.float32(0))
