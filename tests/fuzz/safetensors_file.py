"""Safetensors files taken apart and made again, with the one metadata entry that cimc's formats have."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cimc.ir.artifact import DTYPES

Arrays = dict[str, NDArray[Any]]


def opened(data: bytes) -> tuple[Any, Arrays]:
    """What the metadata say, and the arrays."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["cimc"])
    rest, arrays = data[8 + length :], {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(rest[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return manifest, arrays


def closed(manifest: Any, arrays: Arrays) -> bytes:
    """The inverse."""
    data: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"cimc": json.dumps(manifest)})
    return data


def broken(data: bytes, random: np.random.Generator) -> tuple[str, bytes]:
    """A bit flipped, or the file cut or made longer, with its hashes as they were."""
    kind, at = int(random.integers(4)), int(random.integers(len(data)))
    if kind == 0:
        return f"cut at {at}", data[:at]
    if kind == 1:
        return "longer", data + bytes(at % 64 + 1)
    flipped = bytearray(data)
    flipped[at] ^= 1 << int(random.integers(8))
    return f"bit of byte {at} flipped", bytes(flipped)
