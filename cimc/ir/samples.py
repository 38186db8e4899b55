"""What a layer's crossbars are given: a sample of row vectors, and how far all inputs reach."""

from __future__ import annotations

import hashlib
from math import ceil, floor, log10, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
#: Weights of a layer that `some_columns` keeps, about.
_WEIGHTS = 1 << 21


def keyed(*parts: object) -> np.random.Generator:
    """A counter-based generator whose stream depends on ``parts`` alone."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def rounded_up(value: float, digits: int = 4) -> float:
    """The next number of ``digits`` significant digits, so that the last bits of a float sum do not reach a program."""
    if value <= 0:
        return value
    unit = 10.0 ** (floor(log10(value)) - digits + 1)
    up = ceil(value / unit)
    return float(f"{(up if float(f'{up * unit:.{digits}g}') >= value else up + 1) * unit:.{digits}g}")


def wanted_vectors(groups: int, rows: int) -> int:
    """Row vectors to keep of a layer: 512, more where they are short."""
    return int(np.clip((1 << 20) // (groups * rows), 512, 8192))


def row_vectors(x: NDArray[Any], geometry: Dense | Conv | ConvTranspose, groups: int, rows: int, wanted: int, key: object) -> F32:
    """Row vectors of an activation at keyed-random positions; all of them where there are no more than ``wanted``.

    Args:
        x: The activation.
        geometry: How it forms row vectors.
        groups: Groups of the layer's matrix.
        rows: Rows of one group.
        wanted: Vectors at most.
        key: Names the random stream.

    Returns:
        ``[vectors, groups, rows]`` float32.
    """
    if isinstance(geometry, Dense):
        moved = x.transpose(geometry.input_perm)
        total = prod(moved.shape[: geometry.kept])
        where = np.unravel_index(_positions(total, wanted, key), moved.shape[: geometry.kept] or (1,))
        picked = moved[where] if geometry.kept else moved[None]
        return picked.astype(np.float32).reshape(-1, groups, rows)
    spatial = x.shape[2:]
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    out = geometry.output_spatial(spatial) if isinstance(geometry, Conv) else spatial
    image, pixel = np.divmod(_positions(len(x) * prod(out), wanted, key), max(1, prod(out)))
    if isinstance(geometry, ConvTranspose):
        return flat[image, :, pixel].astype(np.float32).reshape(-1, groups, rows)
    index, inside = _windows(geometry, spatial, pixel)
    picked = flat[image[:, None], :, index]  # [vectors, kernel, channels]
    picked[~inside] = 0
    return np.ascontiguousarray(picked.swapaxes(1, 2), np.float32).reshape(-1, groups, rows)


def _positions(total: int, wanted: int, key: object) -> I64:
    if total <= wanted:
        return np.arange(total)
    # Distinct with a draw for each stratum of equal length, which also spreads them over images.
    edges = np.arange(wanted + 1) * total // wanted
    return edges[:-1] + (keyed(key).random(wanted) * np.diff(edges)).astype(np.int64)


def _windows(geometry: Conv, spatial: tuple[int, ...], pixel: I64) -> tuple[I64, NDArray[np.bool_]]:
    """Flat pixel of every kernel element of every window, and whether it is data, not padding: ``[windows, kernel]``."""
    begin, _ = geometry.resolved_pads(spatial)
    starts = np.unravel_index(pixel, geometry.output_spatial(spatial))
    index, inside = np.zeros((pixel.size, 1), np.int64), np.ones((pixel.size, 1), np.bool_)
    for a, (size, taps) in enumerate(zip(spatial, geometry.kernel_shape, strict=True)):
        at = starts[a][:, None] * geometry.strides[a] + np.arange(taps) * geometry.dilations[a] - begin[a]
        own = (at >= 0) & (at < size)
        inside = (inside[:, :, None] & own[:, None]).reshape(pixel.size, -1)
        index = (index[:, :, None] * size + np.clip(at, 0, size - 1)[:, None]).reshape(pixel.size, -1)
    return index, inside


def some_columns(
    matrix: NDArray[Any], span: F32, fewest: int, *key: object, part: int = 1
) -> tuple[NDArray[Any], F32]:  # fmt: skip
    """A matrix and its weight scales; of more than 2 million weights so many columns, drawn by key.

    Args:
        matrix: ``[groups, rows, columns]``.
        span: ``[1]`` or ``[groups * columns]``: the weight that spans the window.
        fewest: Columns that are kept however many rows they have.
        key: Names the random stream.
        part: Of a matrix of more than 2 million weights so many are kept, divided by this.
    """
    groups, rows, columns = matrix.shape
    if max(fewest, _WEIGHTS // (groups * rows)) >= columns:
        return matrix, span
    wanted = max(fewest, _WEIGHTS // part // (groups * rows))
    chosen = np.sort(keyed(*key).permutation(columns)[:wanted])
    own = span if span.size == 1 else np.ascontiguousarray(span.reshape(groups, columns)[:, chosen]).reshape(-1)
    return matrix[:, :, chosen], own


class Extent:
    """How far values reach, over as many arrays as are added.

    With ``share`` above 0 magnitudes are counted in bins of 1/128 of their size, so that the full scale errs to the large
    side: never more than ``share`` of the values lie above it.
    """

    def __init__(self, *, count: bool) -> None:
        self.low = 0.0
        self.largest = 0.0
        self.values = 0
        self._bins: I64 | None = np.zeros(1 << 15, np.int64) if count else None

    def add(self, x: NDArray[Any]) -> bool:
        """Take in an array; False, and nothing taken in, where it holds NaN or Inf."""
        if not x.size:
            return True
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.low = min(self.low, low)
        self.largest = max(self.largest, -low, high)
        self.values += x.size
        if self._bins is not None:
            # Positive float32 numbers order as their bits do: the upper half is the sign, the exponent and 7 bits.
            bits = np.abs(x).astype(np.float32).reshape(-1).view(np.uint32) >> 16
            self._bins += np.bincount(bits, minlength=self._bins.size)
        return True

    @property
    def signed(self) -> bool:
        return self.low < 0

    def full_scale(self, share: float) -> float:
        """A magnitude that at most ``share`` of the values exceed; 0 where all are 0."""
        if self._bins is None or share <= 0:
            return self.largest
        above = np.cumsum(self._bins[::-1])[::-1]  # values in this bin and those above
        allowed = floor(share * self.values)
        first = int(np.argmax(above <= allowed)) if (above <= allowed).any() else self._bins.size
        edge = np.array([first << 16], np.uint32).view(np.float32)[0]
        return min(self.largest, float(edge)) if np.isfinite(edge) else self.largest
