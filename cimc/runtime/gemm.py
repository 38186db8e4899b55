"""Matrix products whose every row is computed the same way, alone or among many.

BLAS may add up in another order for a row at the edge of a block; here a row's bytes depend on that row alone. A micro kernel
computes six rows by one panel of columns in registers, a step of 64 bytes of the matrix at a time:

=======  =======================  ===================================================================================
dtype    a step                   products
=======  =======================  ===================================================================================
int16    2 rows of 16 columns     into int32, exact below 2**31; ``vpmaddwd`` of AVX2: 16 products and 8 sums an instruction,
                                  up to twice the pace of float32
float32  1 row of 16 columns      fused multiply-add, in the order of the rows
float64  1 row of 8 columns       the same
=======  =======================  ===================================================================================
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

#: Rows that one micro kernel computes: 6 x 2 accumulators of the 16 vector registers.
TALL = 6

cgutils: Any = untyped_cgutils
_I32, _I64 = ir.IntType(32), ir.IntType(64)


@cache
def has_avx2() -> bool:
    """Whether this CPU multiplies int16."""
    return bool(llvm.get_host_cpu_features().get("avx2", False))


def panel_shape(dtype: Any) -> tuple[int, int]:
    """Columns of a panel, and rows of one step."""
    return {2: (16, 2), 4: (16, 1), 8: (8, 1)}[np.dtype(dtype).itemsize]


def sums_dtype(dtype: Any) -> Any:
    """dtype of products."""
    return np.dtype(np.int32 if dtype == np.int16 else dtype)


def _step(builder: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """LLVM types of one broadcast of ``a`` and of the vector of sums, and the function ``(sum, broadcast, weights) -> sum``."""
    if dtype == types.int16:
        sums, pairs = ir.VectorType(_I32, 8), ir.VectorType(ir.IntType(16), 16)
        madd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [pairs, pairs]), "llvm.x86.avx2.pmadd.wd")

        def whole(total: Any, spread: Any, weights: Any) -> Any:
            product = builder.call(madd, [builder.bitcast(spread, pairs), builder.bitcast(weights, pairs)])
            return builder.add(total, product)

        return _I32, sums, whole
    single = dtype == types.float32
    element = ir.FloatType() if single else ir.DoubleType()
    sums = ir.VectorType(element, 8 if single else 4)
    name = "llvm.fma.v8f32" if single else "llvm.fma.v4f64"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [sums] * 3), name)
    return element, sums, lambda total, spread, weights: builder.call(fma, [spread, weights, total])


def _micro(rows: int, moments: bool = False) -> Any:
    """An intrinsic ``(a, a_at, a_stride, panels, at, stride, steps, out, out_at, out_stride)``: C arrays, byte offsets, strides.

    For ``moments`` a first row is all 1 and a second one the matrix itself.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def start(array: int, at: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, value=args[array]).data
            return builder.add(builder.ptrtoint(data, _I64), args[at])

        a, panel, out = start(0, 1), start(3, 4), start(7, 8)
        a_stride, stride, steps, out_stride = args[2], args[5], args[6], args[9]
        element, vector, accumulate = _step(builder, signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8 * (2 if signature.args[0].dtype == types.int16 else 1)
        none, zero, first = ir.Constant(vector, ir.Undefined), ir.Constant(vector, None), ir.Constant(_I32, 0)
        lanes = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(2)] for _ in range(rows)]
        for pair in sums:
            for half in pair:
                builder.store(zero, half)
        lines = [builder.add(a, builder.mul(a_stride, ir.Constant(_I64, r))) for r in range(rows)]

        def at(address: Any, kind: Any) -> Any:
            return builder.inttoptr(address, kind.as_pointer())

        with cgutils.for_range(builder, steps) as loop:
            here = builder.add(panel, builder.mul(loop.index, stride))
            weights = [builder.load(at(builder.add(here, ir.Constant(_I64, 32 * half)), vector), align=4) for half in range(2)]
            step = builder.mul(loop.index, ir.Constant(_I64, size))
            for r in range(rows):
                if moments:
                    ones = ir.Constant(vector, [0x00010001] * vector.count)
                    factors = weights if r else [ones, ones]
                else:
                    value = builder.load(at(builder.add(lines[r], step), element), align=4)
                    factors = [builder.shuffle_vector(builder.insert_element(none, value, first), none, lanes)] * 2
                for half in range(2):
                    builder.store(accumulate(builder.load(sums[r][half]), factors[half], weights[half]), sums[r][half])
        for r in range(rows):
            line = builder.add(out, builder.mul(out_stride, ir.Constant(_I64, r)))
            for half in range(2):
                place = at(builder.add(line, ir.Constant(_I64, 32 * half)), vector)
                builder.store(builder.load(sums[r][half]), place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def kernel(
        _typing: Any, a: Any, a_at: Any, a_stride: Any, panels: Any, at: Any, stride: Any, steps: Any, out: Any, out_at: Any,
        out_stride: Any,
    ) -> Any:  # fmt: skip
        i = types.int64
        return types.void(a, i, i, panels, i, i, i, out, i, i), codegen

    return kernel


_micro_tall, _micro_two, _micro_moments = _micro(TALL), _micro(2), _micro(2, moments=True)


@njit(nogil=True, cache=True)
def multiply(a: NDArray[Any], count: int, panels: NDArray[Any], out: NDArray[Any]) -> None:
    """``out[:count] = a[:count] @ matrix``.

    Args:
        a: ``[rows, steps * rows of a step]``, contiguous; rows beyond ``count``, up to the next multiple of `TALL`, may be read.
        count: Rows.
        panels: ``[panels, steps, columns of a panel, rows of a step]``, contiguous, see `layout.Places`; of a's dtype.
        out: ``[rows, columns of all panels]``, contiguous; the same rows beyond ``count`` may be written.
    """
    steps = panels.shape[1]
    a_stride, out_stride = a.shape[1] * a.itemsize, out.shape[1] * out.itemsize
    for p in range(panels.shape[0]):
        at = p * steps * 64
        i = 0
        while count - i > 2:
            _micro_tall(a, i * a_stride, a_stride, panels, at, 64, steps, out, i * out_stride + p * 64, out_stride)
            i += TALL
        if i < count:
            _micro_two(a, i * a_stride, a_stride, panels, at, 64, steps, out, i * out_stride + p * 64, out_stride)


@njit(nogil=True, cache=True)
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
        out: ``[rows, columns]``, contiguous; the same rows beyond ``count`` may be written.
    """
    a_stride, stride, out_stride = a.shape[1] * 2, words.shape[1] * 4, out.shape[1] * 4
    for p in range(wide // 16):
        i = 0
        while count - i > 2:
            _micro_tall(
                a, i * a_stride + 2 * first, a_stride, words, p * 64, stride, steps, out, i * out_stride + p * 64, out_stride
            )
            i += TALL
        if i < count:
            _micro_two(
                a, i * a_stride + 2 * first, a_stride, words, p * 64, stride, steps, out, i * out_stride + p * 64, out_stride
            )


@njit(nogil=True, cache=True)
def moments_across(words: NDArray[Any], steps: int, wide: int, out: NDArray[Any]) -> None:
    """Sum and sum of squares of each column into the two rows of ``out``; arguments as of `multiply_across`."""
    stride, out_stride = words.shape[1] * 4, out.shape[1] * 4
    for p in range(wide // 16):
        _micro_moments(words, 0, 0, words, p * 64, stride, steps, out, p * 64, out_stride)
