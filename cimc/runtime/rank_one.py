"""What an update by rank-one steps needs: the vectors at both ends of a layer, position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.program import Layer
from cimc.runtime.unfold import unfolding
from cimc.runtime.vectors import output_vectors

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """Inputs x of a layer, and gradients δ of the loss with respect to its outputs; n is the number of positions."""

    x: F32
    """``[groups, rows, n]``."""
    delta: F32
    """``[groups, columns, n]``."""
    pack: int = 1
    """Groups of the model that each matrix holds as blocks on its diagonal; no gradient between them."""

    @classmethod
    def of(
        cls, x: NDArray[Any], dy: NDArray[Any], layer: Layer, geometry: Dense | Conv | ConvTranspose, alpha: float = 1.0
    ) -> Vectors:
        """The vectors of one product, as `cimc.runtime.backward.weight_gradient` takes it."""
        groups, rows, columns = layer.groups, layer.rows, layer.columns
        where = unfolding(geometry, x.shape, groups, rows)
        padded = where.padded_images(x, np.float32)
        starts = np.arange(groups)[:, None, None] * where.group_stride + where.row_offset[:, None]
        inputs = padded[:, starts + where.base]
        outputs = output_vectors(dy, geometry, x.shape, groups, columns) * dy.dtype.type(alpha)
        return cls(_positions_last(inputs), _positions_last(outputs), layer.group_packing)

    def scaled(self, factor: float) -> Vectors:
        """The vectors whose gradient is ``factor`` times this one."""
        return Vectors(self.x, self.delta * np.float32(factor), self.pack)

    def gradient(self) -> F32:
        """The dense gradient of the weights, ``[groups, rows, columns]``: the sum of ``x δ`` over positions."""
        dense: F32 = np.matmul(self.x, self.delta.swapaxes(1, 2))
        return dense * self.inside

    @property
    def inside(self) -> F32:
        """``[rows, columns]``: 1 for weights of the model, 0 between packed groups."""
        rows, columns = self.x.shape[1] // self.pack, self.delta.shape[1] // self.pack
        blocks: NDArray[Any] = np.kron(np.eye(self.pack), np.ones((rows, columns)))
        return blocks.astype(np.float32)


def _positions_last(vectors: NDArray[Any]) -> F32:
    """``[images, groups, lines, positions]`` to ``[groups, lines, images * positions]``."""
    images, groups, lines, positions = vectors.shape
    return np.ascontiguousarray(vectors.transpose(1, 2, 0, 3), np.float32).reshape(groups, lines, images * positions)
