"""Checksums that tell the data of one run from those of another: over every byte, names, types, shapes and order."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np


def fingerprint(*parts: Any, after: str = "") -> str:
    """A checksum of 16 hex digits.

    Args:
        parts: Arrays, what becomes one, and mappings and sequences of such.
        after: The checksum of what comes before.
    """
    digest = blake2b(after.encode(), digest_size=8)
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
    if isinstance(part, Mapping):
        digest.update(b"{")
        for name, value in part.items():
            digest.update(f"{name!r}:".encode())
            _add(digest, value)
    elif isinstance(part, list | tuple):
        digest.update(f"[{len(part)};".encode())
        for value in part:
            _add(digest, value)
    elif isinstance(part, np.ndarray) or hasattr(part, "__array__"):
        array = np.asanyarray(part)
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        if array.dtype.hasobject:  # strings: their bytes are addresses
            digest.update(repr(array.tolist()).encode())
        elif array.nbytes:
            rows = max(1, (1 << 20) * len(array) // max(1, array.nbytes)) if array.ndim else 1
            for first in range(0, len(array) if array.ndim else 1, rows):
                piece = array[first : first + rows] if array.ndim else array
                digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
    else:
        digest.update(f"{part!r};".encode())
