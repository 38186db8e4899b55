"""Gradients of activations on the array itself: bit lines are driven with the outputs' gradient, word lines are converted.

A position's vector δ becomes codes at a full scale of its own. A read has two phases, both unipolar as drivers and ADC are::

    phase    + lines of pairs    - lines of pairs    current of word line r
    one      max(δ, 0)           max(-δ, 0)          I1 = Σ max(δ, 0) g+ + max(-δ, 0) g-
    two      max(-δ, 0)          max(δ, 0)           I2 = Σ max(-δ, 0) g+ + max(δ, 0) g-
                                                     I1 - I2 = Σ δ (g+ - g-)

Both phases carry the same offset ``g_min Σ |δ|``, which the digital subtraction takes off. Offset weights, and weights with a
shared reference, have one line each: there ``I1 - I2 = Σ δ g``, and the digital side, which knows the codes, takes ``Σ δ`` times
the shift off; the unit column and the references rest. Column tiles add up digitally, row slices lie one behind the other, and
what is left is col2im.

So a transposed read is a read of an array whose word lines are the bit lines here, and a backend computes it: each conversion
has the read noise of every driven device, and the ADC's noise, keyed by image, position, phase, column tile and row.

The range of a conversion needs no calibration, hence no state. It is the chip's ``array.transposed.range_ua``, or the
current of √n devices at g_max, n the columns of the widest tile: half-way, in bits, between one driven line and all of them,
so that neither a sparse vector (of few codes, but full ones) nor a full one loses more than half of log2 n bits. A vector that
could carry more is driven at a lower scale: a device at most at g_max never saturates a conversion.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.ir.encoding import Coefficients, level_step_us
from cimc.ir.geometry import Conv, ConvTranspose, Dense, Shape
from cimc.ir.weight_codes.registry import weight_code
from cimc.runtime import backward
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.backends.interface import Handle
from cimc.runtime.coding import TWO_PHASE, Coding, room
from cimc.runtime.copies import SharedRead
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.unfold import Unfolding
from cimc.runtime.vectors import input_gradient, output_vectors
from cimc.runtime.wires.grid import on_wires
from cimc.targets.description import Target
from cimc.targets.transposed import transposed_target

if TYPE_CHECKING:
    from cimc.runtime.crossbar import Crossbar

Array = NDArray[Any]


def activation_gradient(
    dy: Array,
    crossbar: Crossbar,
    x_shape: Shape,
    geometry: Dense | Conv | ConvTranspose,
    noise_key: int,
    first_image: int = 0,
    alpha: float = 1.0,
) -> Array:
    """``dX = dY @ G^T * alpha`` with what the devices hold, in the activation's shape and the gradient's dtype.

    Args:
        dy: Gradient of the product, in its shape. A vector that is not finite gives a gradient that is not.
        crossbar: Of the layer; its stats count the read.
        x_shape: Of the activation.
        geometry: Of the step.
        noise_key: Of chip, step and direction, from `rng.key`.
        first_image: Number of the first image (row of a dense product's first axis), which keys the noise too.
        alpha: Digital factor of the step.

    Raises:
        TargetError: The chip has no transposed read.
    """
    read, repeats, groups = transposed_target(crossbar.target), crossbar.layer.repeats, crossbar.groups
    _count(crossbar, geometry.images(x_shape) * geometry.positions(x_shape), read)
    if crossbar.target.is_ideal:
        return backward.activation_gradient(dy, repeats.averaged(crossbar.matrix), x_shape, geometry, alpha)
    kind: Any = np.float64 if dy.dtype == np.float64 else np.float32
    delta = output_vectors(dy.astype(kind, copy=False), geometry, x_shape, groups, crossbar.columns // repeats.columns)
    if repeats.columns > 1:
        delta = np.tile(delta, (1, 1, repeats.columns, 1))
    unit = alpha / repeats.cells * crossbar.coefficients.weight_step * (2 if crossbar.target.update.shares else 1)
    delta = delta * unit.reshape(groups, -1, 1).astype(kind)
    vectors = multiply(delta, crossbar, read, noise_key, first_image)
    if repeats.rows > 1:  # word lines of the same row
        images, rows, positions = vectors.shape
        parts = vectors.reshape(images, groups, repeats.rows, -1, positions)
        vectors = np.ascontiguousarray(parts.sum(axis=2)).reshape(images, rows // repeats.rows, positions)
    dx: Array = np.ascontiguousarray(input_gradient(vectors, geometry, x_shape)).astype(dy.dtype, copy=False)
    return dx


def multiply(delta: Array, crossbar: Crossbar, read: Target, noise_key: int, first_image: int) -> Array:
    """Vectors through the transposed array: ``sum over c of delta[c] * digit[r, c]``, a weight's digits in level steps.

    Args:
        delta: ``[images, groups, columns, positions]``, float32 or float64.
        crossbar: Its devices; its stats take the saturated conversions.
        read: From `transposed_target`.
        noise_key: As `activation_gradient`.
        first_image: Likewise.

    Returns:
        ``[images, groups * rows, positions]``.
    """
    images, groups, columns, positions = delta.shape
    rows, planes = crossbar.rows, crossbar.target.planes
    if not delta.size:
        return np.zeros((images, groups * rows, positions), delta.dtype)
    coding, range_ua = coding_of(read), conversion_range_ua(read, crossbar.column_cuts)
    shares = crossbar.target.update.shares or (1.0,)
    scale = full_scale(delta, crossbar.column_cuts, read, coding, range_ua, sum(shares))
    # Nothing drives a vector of zeros; one that is not finite has no codes, and its scale spoils the result as it must.
    usable = (scale > 0) & np.isfinite(scale)
    drive = np.where(usable, delta, 0) / np.where(usable, scale, 1)
    codes = [coding.apply((drive if share == 1 else drive * drive.dtype.type(share)).reshape(images, -1))[0] for share in shares]
    signs = _signs(crossbar.target)
    lines = _lines(codes, signs, positions)
    ready = _ready(crossbar, read, coding, range_ua, positions)
    y = np.empty(images * groups * rows * positions, delta.dtype)
    where = _unfolding(groups, columns * planes, positions)
    constant, strides = np.zeros(groups * rows), (groups * rows * positions, 1, positions)
    crossbar.stats.transposed_saturations += ready.read(lines, where, noise_key, first_image, ready.factor, constant, y, strides)
    result: Array = y.reshape(images, groups, rows, positions)
    code, device = weight_code(crossbar.target), crossbar.target.device
    shift = code.shift + sum(signs) * device.g_min_us / level_step_us(crossbar.target)
    if shift:
        driven = codes[0].astype(delta.dtype).reshape(2, images, groups, columns, positions).sum(axis=3)
        result -= ((driven[0] - driven[1]) * (shift / coding.gain))[:, :, None]
    with np.errstate(invalid="ignore"):
        result *= scale
    return result.reshape(images, groups * rows, positions)


def coding_of(read: Target) -> Coding:
    """Codes of a vector whose full scale is 1."""
    bits = read.dac.bits
    top, full = (1.0, 1.0) if bits is None else (2.0**bits - 1, 2.0**bits)
    return Coding(top, TWO_PHASE, -top, top, bits, False, np.array([1.0, -1.0]), full, int(top), 0.0)


def conversion_range_ua(read: Target, column_cuts: tuple[int, ...]) -> float | None:
    """Full scale of a conversion; None without an ADC."""
    if read.adc.bits is None or read.adc.range_ua is not None:
        return None if read.adc.bits is None else read.adc.range_ua
    return read.device.read_voltage_v * read.device.g_max_us * sqrt(int(np.diff(column_cuts).max()))


def full_scale(
    delta: Array, column_cuts: tuple[int, ...], read: Target, coding: Coding, range_ua: float | None, shares: float = 1.0
) -> Array:
    """Full scale of each vector, ``[images, groups, 1, positions]``: its largest value, or more where the range wants it.

    ``shares`` is the sum of the shares of a weight's arrays, whose lines all carry the vector.
    """
    size = np.abs(delta)
    largest: Array = size.max(axis=2, keepdims=True)
    if range_ua is None:
        return largest
    of_tile = np.add.reduceat(size, np.asarray(column_cuts[:-1]), axis=2).max(axis=2, keepdims=True)
    most = shares * read.device.read_voltage_v * read.device.g_max_us * coding.gain / coding.full
    scale: Array = np.maximum(largest, of_tile * of_tile.dtype.type(most / range_ua))
    return scale


def _signs(target: Target) -> tuple[float, ...]:
    """Sign with which each device column of a weight is driven.

    Raises:
        TargetError: The code of the weights has no transposed read.
    """
    signs = weight_code(target).transposed_signs
    if signs is None or len(signs) != target.planes:
        raise TargetError(
            f"weights of the representation {target.weights.representation} have no transposed read, so no analog backward pass",
            where=f"target {target.name}, weights.representation",
            fix="use --backward digital",
        )
    return signs


def _lines(codes: list[Array], signs: tuple[float, ...], positions: int) -> Array:
    """What the bit lines are driven with, ``[phases, images, groups * columns * planes * positions]``.

    A line of negative sign, as the second of a pair, has the other phase. Pairs of several arrays lie plus lines first.
    """
    phases, images, size = codes[0].shape
    out = room((phases, images, size // positions, len(signs), positions), codes[0].dtype)
    for plane, sign in enumerate(signs):
        own = codes[plane % len(codes)]
        out[:, :, :, plane] = own[:: 1 if sign > 0 else -1].reshape(phases, images, -1, positions)
    return out.reshape(phases, images, len(signs) * size)


def _unfolding(groups: int, lines: int, positions: int) -> Unfolding:
    """Where `_lines` holds the bit lines of a group at each position."""
    size = lines * positions
    every = (slice(None),)
    return Unfolding(None, every, (groups * size,), np.arange(positions), np.arange(lines) * positions, size)


def _ready(crossbar: Crossbar, read: Target, coding: Coding, range_ua: float | None, positions: int) -> Handle:
    """A handle of what the devices hold, of all copies; kept, and brought up to date once they have changed."""
    cuts = tuple(crossbar.target.planes * cut for cut in crossbar.column_cuts)

    def spec(copy: int) -> ReadSpec:
        found = ReadSpec.from_target(_turned(crossbar, copy, len(cuts) - 1), coding, cuts, (0, crossbar.rows), read, range_ua)
        return found if read.array.wires is None else on_wires(found)

    changes = crossbar.turned_changes
    if changes.anew:
        crossbar.turned = None
    elif crossbar.turned is not None and changes.some:
        crossbar.turned = crossbar.turned if crossbar.turned.refresh(spec(0)) else None
    changes.clear()
    if crossbar.turned is None:
        handles = [crossbar.backend.prepare(spec(copy), positions) for copy in range(len(crossbar.effective))]
        crossbar.turned = handles[0] if len(handles) == 1 else SharedRead(handles)
    return crossbar.turned


def _turned(crossbar: Crossbar, copy: int, tiles: int) -> Devices:
    """The devices of a copy as the transposed read sees them: word lines for bit lines, column tiles for row slices.

    Drift is compensated by the mean factor of the layer: a word line adds up many device columns before it is converted.
    """
    devices, factor = crossbar.effective[copy], crossbar.factors[copy].mean if crossbar.factors else 1.0
    groups, rows, planes, columns = devices.g_us.shape

    def across(values: Array) -> Array:
        return np.ascontiguousarray(values.transpose(0, 3, 2, 1)).reshape(groups, columns * planes, 1, rows)

    no_units = np.empty((groups, columns * planes, 0), np.float32)
    coefficients = Coefficients(np.full((groups, tiles, 1, rows), factor), None, np.ones(groups * rows))
    variance = None if devices.variance_us2 is None else across(devices.variance_us2)
    of_units = None if variance is None else no_units
    return Devices(across(devices.g_us), no_units, coefficients, variance_us2=variance, unit_variance_us2=of_units)


def _count(crossbar: Crossbar, positions: int, read: Target) -> None:
    tiles = crossbar.groups * (len(crossbar.column_cuts) - 1)
    crossbar.stats.transposed_reads += 2 * positions * tiles * (len(crossbar.row_cuts) - 1)
    if read.adc.bits is not None:
        crossbar.stats.transposed_conversions += 2 * positions * tiles * crossbar.rows
