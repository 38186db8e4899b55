"""Matrix products whose every row is computed the same way, alone or among many.

BLAS may add up in another order for a row at the edge of a block; here a row's bytes depend on that row alone. A micro kernel
computes a few rows by one or two panels of columns in registers, a step of 64 bytes of each panel at a time:

=======  =======================  ===================================================================================
dtype    a step                   products
=======  =======================  ===================================================================================
int16    2 rows of 16 columns     into int32, exact below 2**31; ``vpmaddwd``, of AVX2 or AVX-512: two products and their sum
                                  a lane, up to twice the pace of float32. LLVM makes it ``vpdpwssd`` where there is VNNI
float32  1 row of 16 columns      fused multiply-add, in the order of the rows
float64  1 row of 8 columns       the same
=======  =======================  ===================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime import simd
from cimc.runtime.jit import kernel

#: To a multiple of it callers have room for rows.
TALL = 8
#: Panels and rows of a micro kernel: 8 x 2 sums of the 32 registers of AVX-512, or 6 x 1 panel, of two vectors, of 16 registers.
PANELS, ROWS = (2, 8) if simd.VECTOR == 64 else (1, 6)

cgutils: Any = untyped_cgutils
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def has_avx2() -> bool:
    """Whether this CPU multiplies int16."""
    return simd.has("avx2")


def panel_shape(dtype: Any) -> tuple[int, int]:
    """Columns of a panel, and rows of one step."""
    return {2: (16, 2), 4: (16, 1), 8: (8, 1)}[np.dtype(dtype).itemsize]


def sums_dtype(dtype: Any) -> Any:
    """dtype of products."""
    return np.dtype(np.int32 if dtype == np.int16 else dtype)


def _step(builder: Any, dtype: Any, width: int) -> tuple[Any, Any, Any]:
    """LLVM types of one broadcast of ``a`` and of the vector of sums, and the function ``(sum, broadcast, weights) -> sum``."""
    if dtype == types.int16:
        sums, pairs = ir.VectorType(_I32, width // 4), ir.VectorType(ir.IntType(16), width // 2)
        name = "llvm.x86.avx512.pmaddw.d.512" if width == 64 else "llvm.x86.avx2.pmadd.wd"
        madd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [pairs, pairs]), name)

        def whole(total: Any, spread: Any, weights: Any) -> Any:
            product = builder.call(madd, [builder.bitcast(spread, pairs), builder.bitcast(weights, pairs)])
            return builder.add(total, product)

        return _I32, sums, whole
    element, size = (ir.FloatType(), 4) if dtype == types.float32 else (ir.DoubleType(), 8)
    sums = ir.VectorType(element, width // size)
    name = f"llvm.fma.v{width // size}f{8 * size}"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [sums] * 3), name)
    return element, sums, lambda total, spread, weights: builder.call(fma, [spread, weights, total])


def micro(rows: int, panels: int, width: int = simd.VECTOR, moments: bool = False) -> Any:
    """An intrinsic ``(a, a_at, a_stride, matrix, at, stride, pitch, steps, out, out_at, out_stride)``.

    Arrays are contiguous, offsets and strides in bytes: ``stride`` from step to step, ``pitch`` from panel to panel; panels
    lie side by side in ``out``. Bytes do not depend on rows, panels or width.

    Args:
        rows: Computed at once.
        panels: The same.
        width: Bytes of a vector.
        moments: In the place of ``a`` a first row is all 1 and a second one the matrix itself.
    """
    vectors = 64 // width * panels

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def start(array: int, at: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, value=args[array]).data
            return builder.add(builder.ptrtoint(data, _I64), args[at])

        a, panel, out = start(0, 1), start(3, 4), start(8, 9)
        a_stride, stride, pitch, steps, out_stride = args[2], args[5], args[6], args[7], args[10]
        element, vector, accumulate = _step(builder, signature.args[0].dtype, width)
        size = signature.args[0].dtype.bitwidth // 8 * (2 if signature.args[0].dtype == types.int16 else 1)
        none, zero, first = ir.Constant(vector, ir.Undefined), ir.Constant(vector, None), ir.Constant(_I32, 0)
        lanes = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
        for line in sums:
            for one in line:
                builder.store(zero, one)

        def at(address: Any, kind: Any) -> Any:
            return builder.inttoptr(address, kind.as_pointer())

        def row(begin: Any, stride: Any, number: int) -> Any:
            return builder.add(begin, builder.mul(stride, ir.Constant(_I64, number)))

        lines = [row(a, a_stride, r) for r in range(rows)]
        with cgutils.for_range(builder, steps) as loop:
            here = builder.add(panel, builder.mul(loop.index, stride))
            places = [row(row(here, pitch, n), ir.Constant(_I64, width), v) for n in range(panels) for v in range(64 // width)]
            weights = [builder.load(at(place, vector), align=4) for place in places]
            step = builder.mul(loop.index, ir.Constant(_I64, size))
            for r in range(rows):
                if moments:
                    factors = weights if r else [ir.Constant(vector, [0x00010001] * vector.count)] * vectors
                else:
                    value = builder.load(at(builder.add(lines[r], step), element), align=4)
                    factors = [builder.shuffle_vector(builder.insert_element(none, value, first), none, lanes)] * vectors
                for one, factor, weight in zip(sums[r], factors, weights, strict=True):
                    builder.store(accumulate(builder.load(one), factor, weight), one)
        for r in range(rows):
            for v, one in enumerate(sums[r]):
                place = row(row(out, out_stride, r), ir.Constant(_I64, width), v)
                builder.store(builder.load(one), at(place, vector), align=4)
        return context.get_dummy_value()

    @intrinsic
    def kernel(
        _typing: Any, a: Any, a_at: Any, a_stride: Any, matrix: Any, at: Any, stride: Any, pitch: Any, steps: Any, out: Any,
        out_at: Any, out_stride: Any,
    ) -> Any:  # fmt: skip
        i = types.int64
        return types.void(a, i, i, matrix, i, i, i, i, out, i, i), codegen

    return kernel


_tall, _four, _two, _moments = (*(micro(rows, PANELS) for rows in (ROWS, 4, 2)), micro(2, PANELS, moments=True))
_tall_single, _four_single, _two_single, _moments_single = (*(micro(rows, 1) for rows in (ROWS, 4, 2)), micro(2, 1, moments=True))


@kernel(error_model="numpy")
def _multiply(
    a: NDArray[Any], first: int, count: int, matrix: NDArray[Any], stride: int, pitch: int, panels: int, steps: int,
    out: NDArray[Any],
) -> None:  # fmt: skip
    """All panels and rows; rows of ``a`` begin at byte ``first`` of theirs, the rest as of `micro`."""
    a_stride, out_stride = a.shape[1] * a.itemsize, out.shape[1] * out.itemsize
    for p in range(0, panels, PANELS):
        several, at, i = p + PANELS <= panels, p * pitch, 0
        while i < count:
            begin, end, left = i * a_stride + first, i * out_stride + p * 64, count - i
            if left > 4 and several:
                _tall(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            elif left > 4:
                _tall_single(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            elif left > 2 and several:
                _four(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            elif left > 2:
                _four_single(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            elif several:
                _two(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            else:
                _two_single(a, begin, a_stride, matrix, at, stride, pitch, steps, out, end, out_stride)
            i += ROWS if left > 4 else 4


@kernel()
def multiply(a: NDArray[Any], count: int, panels: NDArray[Any], out: NDArray[Any]) -> None:
    """``out[:count] = a[:count] @ matrix``.

    Args:
        a: ``[rows, steps * rows of a step]``, contiguous; rows beyond ``count``, up to the next multiple of `TALL`, may be read.
        count: Rows.
        panels: ``[panels, steps, columns of a panel, rows of a step]``, contiguous, see `layout.Places`; of a's dtype.
        out: ``[rows, columns of all panels]``, contiguous; the same rows beyond ``count`` may be written.
    """
    number, steps = panels.shape[:2]
    _multiply(a, 0, count, panels, 64, steps * 64, number, steps, out)


@kernel()
def multiply_across(
    a: NDArray[Any], first: int, steps: int, count: int, words: NDArray[Any], wide: int, out: NDArray[Any]
) -> None:
    """``out[:count, :wide] = a[:count, first : first + 2 * steps] @ words``, in int16.

    Args:
        a: ``[rows, values]``, contiguous; rows beyond ``count``, up to the next multiple of `TALL`, may be read.
        first: First value of a row.
        steps: Pairs of values.
        count: Rows.
        words: ``[steps or more, columns or more, 2]``, contiguous: pairs of rows.
        wide: Columns, a multiple of 16.
        out: ``[rows, columns or more]``, contiguous; the same rows beyond ``count`` may be written.
    """
    _multiply(a, 2 * first, count, words, words.shape[1] * 4, 64, wide // 16, steps, out)


@kernel()
def multiply_across_single(
    a: NDArray[Any], first: int, steps: int, count: int, words: NDArray[Any], wide: int, out: NDArray[Any]
) -> None:
    """As `multiply_across`, in float32: ``words`` are ``[steps or more, columns or more]``, one row a step."""
    _multiply(a, 4 * first, count, words, words.shape[1] * 4, 64, wide // 16, steps, out)


@kernel()
def moments_across(words: NDArray[Any], steps: int, wide: int, out: NDArray[Any]) -> None:
    """Sum and sum of squares of each column into the two rows of ``out``; arguments as of `multiply_across`."""
    stride, out_stride, panels = words.shape[1] * 4, out.shape[1] * 4, wide // 16
    for p in range(0, panels, PANELS):
        if p + PANELS <= panels:
            _moments(words, 0, 0, words, p * 64, stride, 64, steps, out, p * 64, out_stride)
        else:
            _moments_single(words, 0, 0, words, p * 64, stride, 64, steps, out, p * 64, out_stride)
