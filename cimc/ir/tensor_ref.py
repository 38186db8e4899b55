"""A tensor of which only the hash is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorRef:
    """A tensor that a program in text form names by its hash only.

    It stands in ``Program.tensors``, and nothing can compute with it.

    Attributes:
        dtype: Element type.
        shape: Sizes.
        sha256: Of the bytes of the tensor, row by row.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)
