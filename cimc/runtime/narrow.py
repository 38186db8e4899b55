"""The read of a layer of few device columns: vectors run along positions, where `kernels.read` has them along columns.

Codes of a block of positions are gathered once a row slice, two rows interleaved as `gemm` multiplies them; each device
column is then one pass over the block: noise, ADC and digital sum. Results are those of `kernels.read`, to the byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime import gemm, rng
from cimc.runtime.kernels import INNER, mix
from cimc.runtime.rng import Scalar

Array = NDArray[Any]

#: Positions of one vector store; what is gathered beyond a line's end, and must lie beyond the codes' end.
LANES = 16


@intrinsic
def _interleave(_typing: Any, codes: Any, first: Any, second: Any, mask: Any, out: Any, at: Any) -> Any:
    """16 codes from ``first`` and 16 from ``second`` (and ``mask``) of uint8, in turns, into int16 ``out`` from ``at`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, goal = (context.make_array(signature.args[n])(context, builder, value=args[n]).data for n in (0, 4))
        i8, i16, i32 = (ir.IntType(bits) for bits in (8, 16, 32))
        bytes_, words = ir.VectorType(i8, LANES), ir.VectorType(i16, 2 * LANES)

        def load(place: Any) -> Any:
            return builder.load(builder.bitcast(builder.gep(source, [place]), bytes_.as_pointer()), align=1)

        none = ir.Constant(bytes_, ir.Undefined)
        spread = builder.insert_element(none, builder.trunc(args[3], i8), ir.Constant(i32, 0))
        spread = builder.shuffle_vector(spread, none, ir.Constant(ir.VectorType(i32, LANES), [0] * LANES))
        turns = ir.Constant(ir.VectorType(i32, 2 * LANES), [n // 2 + n % 2 * LANES for n in range(2 * LANES)])
        both = builder.shuffle_vector(load(args[1]), builder.and_(load(args[2]), spread), turns)
        builder.store(builder.zext(both, words), builder.bitcast(builder.gep(goal, [args[5]]), words.as_pointer()), align=2)
        return context.get_dummy_value()

    i = types.int64
    return types.void(codes, i, i, i, out, i), codegen


@njit(cache=True, nogil=True, **INNER)
def _gather(codes: Array, lane: Array, ends: Array, lines: Scalar, offsets: Array, words: Array) -> None:
    """Interleave the codes of a block: ``words[k, i] = codes[lane[i] + offsets[2 * k]], codes[... offsets[2 * k + 1]]``.

    ``lines`` runs of lanes, which end at ``ends``, lie one behind the other in the codes.
    """
    flat, pitch = words.reshape(-1), words.shape[1] * 2
    tall = offsets.size
    for k in range((tall + 1) // 2):
        first, second = offsets[2 * k], offsets[min(2 * k + 1, tall - 1)]
        mask = 255 if 2 * k + 1 < tall else 0
        if lines * 4 > ends[lines - 1]:
            pair = words[k]
            for i in range(ends[lines - 1]):
                pair[i, 0] = codes[lane[i] + first]
                pair[i, 1] = codes[lane[i] + second] & mask
            continue
        begin = 0
        for n in range(lines):
            at, end = lane[begin], ends[n]
            # The last vector reaches into the next line, which is written after it.
            for i in range(0, end - begin, LANES):
                _interleave(codes, at + i + first, at + i + second, mask, flat, k * pitch + 2 * (begin + i))
            begin = end


@njit(cache=True, nogil=True, **INNER)
def _keys(row_key: Array, step: Scalar, low: Array, high: Array) -> None:
    """Halves of the noise keys of a phase and slice."""
    for i in range(low.size):
        key = mix(row_key[i] ^ step)
        low[i] = np.uint32(key)
        high[i] = np.uint32(key >> np.uint64(32))


@njit(cache=True, nogil=True, fastmath={"contract"}, **INNER)
def _currents(
    sums: Array, level: Array, slope: Scalar, sigma: Array, low: Array, high: Array, counter: Scalar, noisy: Scalar, out: Array
) -> None:
    """Grid sums of one device column to currents in LSB; with noise, or without."""
    if noisy:
        for i in range(out.size):
            noise = rng.normal_of(rng.hash32(low[i], high[i], counter))
            out[i] = (np.float32(sums[i]) * slope + level[i]) + sigma[i] * noise
    else:
        for i in range(out.size):
            out[i] = np.float32(sums[i]) * slope + level[i]


@njit(cache=True, nogil=True, **INNER)
def _adc(currents: Array, count: Scalar, top: Scalar) -> Scalar:
    """Currents in LSB to codes, in place; returns how many of the first ``count`` lay above the top."""
    saturated = np.int32(0)
    currents[count:] = 0
    for i in range(currents.size):
        code = np.rint(currents[i])
        saturated += np.int32(code > top)
        currents[i] = min(max(code, np.float32(0)), top)
    return saturated


@njit(cache=True, nogil=True, fastmath={"contract"}, **INNER)
def _add(factor: Scalar, values: Array, acc: Array) -> None:
    """The digital side: ``acc += factor * values``."""
    for i in range(values.size):
        acc[i] += factor * np.float64(values[i])


@njit(cache=True, nogil=True, **INNER)
def _place(
    first: Scalar,
    count: Scalar,
    size: Scalar,
    base: Array,
    seed: Scalar,
    first_image: Scalar,
    lane: Array,
    ends: Array,
    key: Array,
) -> Scalar:
    """Where the inputs of a block's positions start, the ends of its lines, the keys of its positions; how many lines."""
    lines = 0
    image, position = divmod(first, base.size)
    for i in range(count):
        if i == 0 or position == 0:
            image_key = mix(seed ^ np.uint64(first_image + image))
        lane[i] = image * size + base[position]
        if i > 0 and lane[i] != lane[i - 1] + 1:
            ends[lines] = i
            lines += 1
        key[i] = mix(image_key ^ np.uint64(position))
        position += 1
        if position == base.size:
            image, position = image + 1, 0
    ends[lines] = count
    return lines + 1


@njit(cache=True, nogil=True, **INNER)
def _put(
    acc: Array, first: Scalar, count: Scalar, positions: Scalar, scale: Scalar, offset: Scalar, y: Array, strides: Any
) -> None:
    """One column of a block to the output, which starts at that column."""
    done = 0
    while done < count:
        image, position = divmod(first + done, positions)
        line = y[image * strides[0] + position * strides[1] :]
        if positions == 1:
            for i in range(count):
                line[i * strides[0]] = acc[i] * scale + offset
            return
        width = min(count - done, positions - position)
        values = acc[done : done + width]
        if strides[1] == 1:
            for i in range(width):
                line[i] = values[i] * scale + offset
        else:
            for i in range(width):
                line[i * strides[1]] = values[i] * scale + offset
        done += width


@njit(cache=True, nogil=True, **INNER)
def _levels(moments: Array, lsb_code: Scalar, variance_code: Scalar, variance_read: Scalar, level: Array, sigma: Array) -> None:
    """Level and standard deviation of the current of each lane, in LSB."""
    for i in range(level.size):
        level[i] = np.float32(lsb_code * np.float64(moments[0, i]))
        sigma[i] = np.float32(np.sqrt(variance_code * np.float64(moments[1, i]) + variance_read))


@njit(cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True)
def read(
    first_block: Scalar,
    end_block: Scalar,
    height: Scalar,
    codes: Array,
    base: Array,
    row_offset: Array,
    group_stride: Scalar,
    matrix: Array,
    starts: Array,
    row_cuts: Array,
    alpha: Array,
    unit: Array,
    unit_of_column: Array,
    phase_weight: Array,
    constants: Array,
    seed: Scalar,
    first_image: Scalar,
    scale: Array,
    offset: Array,
    y: Array,
    strides: tuple[int, int, int],
    words: Array,
    sums: Array,
    lines: Array,
    acc: Array,
    lanes: Array,
    keys: Array,
    halves: Array,
) -> Scalar:
    """Blocks ``first_block`` to ``end_block`` of positions, of all groups. Arguments as of `kernels.read`, but:

    Args:
        first_block: First block.
        end_block: End of the blocks.
        height: Positions of a block, a multiple of `LANES`.
        codes: ``[phases, images, image size]``, uint8, with `LANES` bytes more behind them.
        base: See there, like whatever is not named here.
        row_offset: The same.
        group_stride: The same.
        matrix: ``[groups, device columns and more, rows]``, int16 grid steps; each slice has an even number of rows,
            unit columns come last, `gemm.TALL` rows more may be read.
        starts: ``[slices]``: their first values.
        row_cuts: Row slices.
        alpha: ``[groups, slices, planes, columns]``, float64.
        unit: ``[groups, slices, columns]`` or no columns, float64.
        unit_of_column: The same.
        phase_weight: ``[phases]``, float64.
        constants: The same; there is an ADC, or 0 as the top.
        seed: The same.
        first_image: The same.
        scale: The same.
        offset: The same.
        y: The same.
        strides: The same.
        words: Scratch, like what follows, made by `scratch`.
        sums: Grid sums of device columns, then moments of the inputs.
        lines: Level, deviation, a device column's currents, those of unit columns.
        acc: Digital sums.
        lanes: Where inputs start; ends of lines.
        keys: Of positions.
        halves: Of the noise keys.

    Returns:
        Saturated conversions.
    """
    phases, images, size = codes.shape
    groups, slices, planes, columns = alpha.shape
    units = unit_of_column[columns - 1] + 1 if unit.shape[2] else 0
    device_columns, positions = planes * columns, base.size
    device_width = device_columns + units
    lsb_code, lsb_grid, variance_code, variance_read, top = constants
    slope, top32 = np.float32(lsb_grid), np.float32(top)
    noisy = variance_code > 0 or variance_read > 0
    flat = codes.reshape(-1)
    spread_seed = mix(np.uint64(seed))
    saturated = 0
    for block in range(first_block, end_block):
        first = block * height
        count = min(height, images * positions - first)
        wide = (count + LANES - 1) // LANES * LANES
        number = _place(first, count, size, base, spread_seed, first_image, lanes[0], lanes[1], keys)
        for group in range(groups):
            acc[:] = 0
            for s in range(slices):
                offsets = row_offset[row_cuts[s] : row_cuts[s + 1]]
                steps = (offsets.size + 1) // 2
                for phase in range(phases):
                    weight = phase_weight[phase]
                    _gather(flat[phase * images * size + group * group_stride :], lanes[0], lanes[1], number, offsets, words)
                    gemm.multiply_across(matrix[group], starts[s], steps, device_width, words, wide, sums)
                    moments = sums[device_width + gemm.TALL :]
                    gemm.moments_across(words, steps, wide, moments)
                    _levels(moments, lsb_code, variance_code, variance_read, lines[0], lines[1])
                    _keys(keys, np.uint64((phase << 32) | s), halves[0], halves[1])
                    for j in range(device_width):
                        line = lines[max(2, j - device_columns + 3)][:wide]
                        counter = np.uint32(group * device_width + j)
                        _currents(sums[j], lines[0], slope, lines[1], halves[0], halves[1], counter, noisy, line)
                        if top > 0:
                            saturated += _adc(line, count, top32)
                        if j < device_columns:
                            _add(weight * alpha[group, s, j // columns, j % columns], line, acc[j % columns])
                    if units > 0:
                        for c in range(columns):
                            _add(weight * unit[group, s, c], lines[unit_of_column[c] + 3][:wide], acc[c])
            for c in range(columns):
                out = group * columns + c
                _put(acc[c], first, count, positions, scale[out], offset[out], y[out * strides[2] :], strides)
    return saturated


def scratch(height: int, tallest: int, columns: int, device_columns: int, units: int) -> tuple[Array, ...]:
    """The arrays of scratch that `read` takes last, for blocks of ``height`` positions."""
    return (
        np.empty((-(-tallest // 2), height + LANES, 2), np.int16),
        np.empty((device_columns + units + gemm.TALL + 2, height), np.int32),
        np.empty((3 + units, height), np.float32),
        np.empty((columns, height)),
        np.empty((2, height), np.int64),
        np.empty(height, np.uint64),
        np.empty((2, height), np.uint32),
    )
