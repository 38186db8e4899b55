"""A map of conductances as a PNG image, one pixel a device."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

#: Lines of an image at most; a larger array is drawn by the means of neighbouring devices.
MOST_PIXELS = 1536
#: Colours from the lowest conductance to the highest: their lightness rises, so that all people see the order.
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_SHADES = 63


def palette() -> NDArray[np.uint8]:
    """The colours, ``[63, 3]``."""
    at = np.linspace(0, len(_STOPS) - 1, _SHADES)
    stops = np.array(_STOPS, np.float64)
    return np.stack([np.interp(at, range(len(_STOPS)), stops[:, k]) for k in range(3)], axis=1).round().astype(np.uint8)


def pooled(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The map with at most `MOST_PIXELS` lines each way, and how many neighbouring lines one pixel stands for."""
    factor = -(-max(values.shape, default=1) // MOST_PIXELS)
    if factor <= 1:
        return values, 1
    rows, columns = (-(-size // factor) * factor for size in values.shape)
    padded = np.full((rows, columns), np.nan, np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    parts = padded.reshape(rows // factor, factor, columns // factor, factor)
    known = ~np.isnan(parts)
    count = known.sum(axis=(1, 3))
    total = np.where(known, parts, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32), factor


def shades(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Number of each pixel's colour: 0 is no device, 1 to 63 from the lowest conductance to the highest."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.where(np.isnan(values), 0, 1 + np.rint(np.nan_to_num(share) * (_SHADES - 1))).astype(np.uint8)


def png(values: NDArray[np.float32], low: float, high: float) -> bytes:
    """A map as a PNG file of palette colours; pixels without a device are transparent.

    Args:
        values: ``[rows, columns]``, µS; NaN: no device.
        low: Conductance of the darkest colour, µS.
        high: Of the lightest.
    """
    index = shades(values, low, high)
    lines = b"".join(b"\0" + line.tobytes() for line in index)
    colours = b"\0\0\0" + palette().tobytes()
    header = struct.pack(">IIBBBBB", index.shape[1], index.shape[0], 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", colours), (b"tRNS", b"\0"), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
