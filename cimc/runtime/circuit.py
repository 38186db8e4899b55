"""What the compiled reads take: the layer as a circuit, what its word lines see, where products go."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Circuit(NamedTuple):
    """What a read takes of a layer."""

    matrix: Array
    """``[groups, n]``: panels of each row slice and block of columns, see `gemm`; int16 grid steps, or floats. Of a narrow
    layer ``[groups, device columns and more, rows]``, see `narrow.read`."""
    starts: Array
    """``[slices, blocks]``: where each of those starts; ``[slices]`` of a narrow layer: their first values in a row."""
    row_cuts: Array
    """Row slices."""
    blocks: Array
    """``[blocks, 4]``: first and end weight column, first and end unit column."""
    alpha: Array
    """``[groups, slices, planes, columns]``, float64, like the digital sums."""
    unit: Array
    """The unit column's ``[groups, slices, columns]``; no columns where there is none."""
    unit_of_column: Array
    """``[columns]``."""
    phase_weight: Array
    """``[phases]``."""
    constants: Array
    """LSB per unit of code sum, LSB per unit of grid sum, LSB**2 of noise per unit of the codes' sum of squares, LSB**2 of
    noise of a conversion, highest ADC code (0: no ADC; -1: neither scale nor noise either)."""


class Lines(NamedTuple):
    """What converted lines have of their own: device columns, then unit columns. None in its place: all lines convert alike."""

    variance: Array
    """``[groups, n]``, float32: read noise of cells in LSB**2 per unit of a code's power, in panels as ``Circuit.matrix``; no
    entries: that of the circuit's constants."""
    starts: Array
    """``[slices, blocks]``: where each of those starts."""
    gain: Array
    """``[groups, slices, lines]``, float32, like the others."""
    offset: Array
    bow: Array
    low: float
    """Lowest ADC code."""
    fresh: bool
    """Whether the power of a code is the sum of its pulses' squares; else it is its square."""


class Inputs(NamedTuple):
    """What a layer's word lines see, and the noise of it."""

    codes: Array
    """``[phases, images, image size]``: codes, or real inputs, in the dtype of a matrix of floats."""
    base: Array
    """``[positions]``, see `unfold.Unfolding`."""
    line_ends: Array
    """The same shape."""
    row_offset: Array
    """``[rows]``."""
    group_stride: int
    """Values between two groups' inputs."""
    seed: Any
    """Key of chip, layer and direction, uint64."""
    first_image: int
    """Number of the first image."""


class Outputs(NamedTuple):
    """Where products go."""

    scale: Array
    """``[groups * columns]``, float64: digital factor."""
    offset: Array
    """The same shape, added after it."""
    y: Array
    """Flat."""
    strides: tuple[int, int, int]
    """Of image, position and column in ``y``."""
