"""From weights to conductances, as the weight code of the target has it (`cimc.ir.weight_codes`).

A weight column becomes ``planes`` device columns. With ``q`` the conductance of one level step (the window over
``levels - 1``; the whole window where levels are continuous), a device holds ``g_min + digit * q``. The digital side gets
the weight column back from what the device columns read, in units of one level step::

    acc[c] = sum over slices s of ( sum over planes p of alpha[s, p, c] * D[s, p, c]  +  unit[s, c] * D_unit[s, tile of c] )
    x @ W  = acc * weight_step

``D_unit`` is the unit column, all of whose devices hold one level step, or a column of references. `encode` gives everything in
that formula.

==================  =================================================================================================
differential pair   ``|w|`` on the plus planes where w > 0, on the minus planes where w < 0; the other holds g_min
offset              ``w + 2**(bits - 1)`` (Shafiee et al., ISCA 2016); the shift comes off with the unit column
shared reference    as offset; the shift comes off with a column of references that hold it, one for several weight columns
bit slices          digits of base ``levels``, least significant plane first
flipped             a device column whose digits add up to more than half is stored complemented (the same paper)
arrays              of an update rule with arrays of its own (`cimc.targets.update_sections`), first array first: each plus plane
                    holds half the window and half of the array's part of ``w``, each minus plane half the window, its reference;
                    alpha is twice the array's share. All of ``w`` starts in the first array
==================  =================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.weight_codes.registry import weight_code
from cimc.targets.description import Target

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Coefficients:
    """How the digital side combines device columns; float64, exact integers wherever the target's weights are integers."""

    alpha: NDArray[np.float64]
    """``[groups, slices, planes, columns]``."""
    unit: NDArray[np.float64] | None
    """``[groups, slices, columns]``; None where the target reads no unit column."""
    weight_step: NDArray[np.float64]
    """``[groups * columns]``: weight of one level step of the least significant plane."""


@dataclass(frozen=True)
class Encoded:
    """A layer's target conductances, in µS, contiguous ``[groups, rows, planes, columns]``, and their coefficients."""

    g_us: F32
    coefficients: Coefficients


def has_units(target: Target) -> bool:
    """Whether weight columns share a further column: the unit column of their array, or references."""
    return target.array.unit_column or target.weights.reference_columns(1) > 0


def unit_goal_us(target: Target) -> float:
    """Target conductance of the devices of unit columns and references, µS."""
    return target.device.g_min_us + weight_code(target).reference_digit * level_step_us(target)


def unit_cuts(column_cuts: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """Cuts between weight columns that share a unit column or a column of references: column tiles, or parts of them."""
    cuts = [0]
    for begin, end in pairwise(column_cuts):
        parts = max(1, target.weights.reference_columns(end - begin))
        cuts += [begin - (begin - end) * part // parts for part in range(1, parts + 1)]
    return tuple(cuts)


def level_step_us(target: Target) -> float:
    """Conductance of one level step; the whole window where levels are continuous."""
    device = target.device
    return (device.g_max_us - device.g_min_us) / ((device.levels or 2) - 1)


def steps_of_full_weight(target: Target) -> float:
    """Level steps (of the least significant plane) that the largest weight spans.

    Raises:
        TargetError: The cells of a weight cannot hold its bits.
    """
    return weight_code(target).full


def quantise(weights: NDArray[Any], weight_max: NDArray[Any], target: Target) -> NDArray[np.float64]:
    """Weights in level steps, clipped to the window, whole numbers where the target rounds.

    Args:
        weights: ``[groups, rows, columns]``.
        weight_max: ``[1]`` or ``[groups * columns]``.
    """
    code = weight_code(target)
    span: NDArray[np.float64] = np.asarray(weight_max, np.float64)
    span = span.reshape(-1) if span.size == 1 else span.reshape(weights.shape[0], 1, weights.shape[2])
    steps = np.clip(weights / np.where(span > 0, span, 1.0), -1.0, 1.0) * code.full
    discrete = target.weights.rounded and (target.device.levels or target.weights.bits) and not target.update.shares
    return np.rint(steps + code.shift) - code.shift if discrete else steps


def encode(weights: NDArray[Any], weight_max: NDArray[Any], row_cuts: tuple[int, ...], target: Target) -> Encoded:
    """Target conductances of one layer.

    Args:
        weights: ``[groups, rows, columns]``, any real dtype.
        weight_max: ``[1]`` or ``[groups * columns]``: the weight that spans the window.
        row_cuts: Row slice s is rows ``row_cuts[s]`` to ``row_cuts[s + 1]``.
        target: The chip.

    Raises:
        TargetError: The cells of a weight cannot hold its bits.
    """
    groups, _, columns = weights.shape
    code = weight_code(target)
    digits = code.encode(quantise(weights, weight_max, target))
    slices, weighting = len(row_cuts) - 1, np.array(code.alpha)
    alpha = np.broadcast_to(weighting[None, None, :, None], (groups, slices, weighting.size, columns)).copy()
    unit = None
    if has_units(target):
        unit = np.full((groups, slices, columns), code.unit)
        if target.adc.flipped:
            _flip(digits, alpha, unit, row_cuts, (target.device.levels or 2) - 1)
        if target.adc.conversion == "integrated":
            # g_min under every device reads as leak = g_min/q of the input sum; the unit column sees its digit and that.
            leak, digit = target.device.g_min_us / level_step_us(target), code.reference_digit
            unit -= (alpha.sum(axis=2) + unit) * leak / (digit + leak)
    g_us = (target.device.g_min_us + digits * level_step_us(target)).astype(np.float32, order="C")
    weight_step = np.broadcast_to(np.asarray(weight_max, np.float64).reshape(-1) / code.full, (groups * columns,)).copy()
    return Encoded(g_us, Coefficients(alpha, unit, weight_step))


def _flip(
    digits: NDArray[np.float64], alpha: NDArray[np.float64], unit: NDArray[np.float64], row_cuts: tuple[int, ...], top: int
) -> None:
    """Complement, in place, each device column of a slice whose digits exceed half of what the slice could hold."""
    for s, (begin, end) in enumerate(pairwise(row_cuts)):
        part = digits[:, begin:end]
        heavy = part.sum(axis=1) > (end - begin) * top / 2
        part[...] = np.where(heavy[:, None], top - part, part)
        unit[:, s] += (np.where(heavy, alpha[:, s] * top, 0.0)).sum(axis=1)
        alpha[:, s] *= np.where(heavy, -1.0, 1.0)
