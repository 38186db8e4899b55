"""The ``TENS`` section: a safetensors file, written tensor by tensor into its place.

The package safetensors writes from memory alone; it reads, and so checks, what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.artifact import DTYPES

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensors:
    """Tensors in the order of the file, and what stands before them."""

    head: bytes
    tensors: tuple[Array, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Array]) -> Tensors:
        """The widest types first, so that each tensor is aligned.

        Raises:
            CimcError: A tensor of a type that safetensors has not.
        """
        names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
        kinds = {dtype: name for name, dtype in DTYPES.items()}
        entries, at = {}, 0
        for name in names:
            array = tensors[name]
            if array.dtype not in kinds:
                raise CimcError(
                    f"an image has no form for {array.dtype.name}", where=f"tensor {name}", fix="cast it in the model"
                )
            entries[name] = {"dtype": kinds[array.dtype], "shape": array.shape, "data_offsets": (at, at + array.nbytes)}
            at += array.nbytes
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return cls(len(text).to_bytes(8, "little") + text, tuple(tensors[name] for name in names))

    @property
    def size(self) -> int:
        """Bytes of the section."""
        return len(self.head) + sum(array.nbytes for array in self.tensors)

    def fill(self, section: NDArray[np.uint8], after: Callable[[int], None]) -> None:
        """Write the section; ``after`` is told how many bytes were written."""
        section[: len(self.head)] = np.frombuffer(self.head, "u1")
        at = len(self.head)
        for array in self.tensors:
            section[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view("u1")
            at += array.nbytes
            after(array.nbytes)
