"""Exact integer products: int16 codes times int16 grid steps into int32, for CPUs with AVX2.

A step multiplies two rows of the matrix at once (``vpmaddwd``: 16 products and 8 sums an instruction), which a core does at up to
twice the pace of float32. The matrix is packed once in panels of 16 columns, row pairs side by side, so that a panel
streams through the first-level cache.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

#: Columns of a panel.
PANEL = 16
#: Rows that one micro kernel computes: 6 x 2 accumulators of the 16 vector registers.
TALL = 6

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V16, _V8 = ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)


def has_avx2() -> bool:
    """Whether this CPU runs the vector kernel."""
    return bool(llvm.get_host_cpu_features().get("avx2", False))


def _micro(rows: int) -> Any:
    """An intrinsic ``(a, a_stride, panel, pairs, out, out_stride)``: addresses and byte strides; ``out[rows, 16] = a @ panel``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, a_stride, panel, pairs, out, out_stride = args
        madd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_V8, [_V16, _V16]), "llvm.x86.avx2.pmadd.wd")
        zero = ir.Constant(_V8, [0] * 8)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(rows)]
        for pair in sums:
            for half in pair:
                builder.store(zero, half)
        lines = [builder.add(a, builder.mul(a_stride, ir.Constant(_I64, r))) for r in range(rows)]

        def load(kind: Any, address: Any, align: int) -> Any:
            return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)

        with cgutils.for_range(builder, pairs) as loop:
            at = builder.add(panel, builder.shl(loop.index, ir.Constant(_I64, 6)))
            weights = [load(_V16, builder.add(at, ir.Constant(_I64, 32 * half)), 2) for half in range(2)]
            step = builder.shl(loop.index, ir.Constant(_I64, 2))
            for r in range(rows):
                code = load(_I32, builder.add(lines[r], step), 2)
                lane = builder.insert_element(ir.Constant(_V8, ir.Undefined), code, ir.Constant(_I32, 0))
                spread = builder.shuffle_vector(lane, ir.Constant(_V8, ir.Undefined), zero)
                for half in range(2):
                    product = builder.call(madd, [builder.bitcast(spread, _V16), weights[half]])
                    builder.store(builder.add(builder.load(sums[r][half]), product), sums[r][half])
        for r in range(rows):
            line = builder.add(out, builder.mul(out_stride, ir.Constant(_I64, r)))
            for half in range(2):
                target = builder.inttoptr(builder.add(line, ir.Constant(_I64, 32 * half)), _V8.as_pointer())
                builder.store(builder.load(sums[r][half]), target, align=4)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def kernel(_typing: Any, a: Any, a_stride: Any, panel: Any, pairs: Any, out: Any, out_stride: Any) -> Any:
        return types.void(*(types.int64,) * 6), codegen

    return kernel


_micro_tall, _micro_one = _micro(TALL), _micro(1)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def multiply_int16(a: NDArray[np.int16], count: int, panels: NDArray[np.int16], out: NDArray[np.int32]) -> None:
    """``out[:count] = a[:count] @ matrix``, exact where no sum reaches 2**31.

    Args:
        a: ``[rows, 2 * pairs]``, contiguous; rows beyond ``count``, up to the next multiple of `TALL`, may be read.
        count: Rows.
        panels: ``[panels, pairs, 16, 2]``, from `pack_panels`.
        out: ``[rows, 16 * panels]``, contiguous; the same rows beyond ``count`` may be written.
    """
    pairs = panels.shape[1]
    a_stride, out_stride = a.shape[1] * 2, out.shape[1] * 4
    first, panel, to = a.ctypes.data, panels.ctypes.data, out.ctypes.data
    for _ in range(panels.shape[0]):
        i = 0
        while count - i >= TALL // 2:
            _micro_tall(first + i * a_stride, a_stride, panel, pairs, to + i * out_stride, out_stride)
            i += TALL
        while i < count:
            _micro_one(first + i * a_stride, a_stride, panel, pairs, to + i * out_stride, out_stride)
            i += 1
        panel += pairs * PANEL * 4
        to += PANEL * 4


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def pack_panels(matrix: NDArray[Any], out: NDArray[np.int16]) -> None:
    """``[rows, columns]`` of whole numbers into ``[panels, pairs, 16, 2]``; what is beyond the matrix is 0."""
    rows, columns = matrix.shape
    for p in range(out.shape[0]):
        for k in range(out.shape[1]):
            for j in range(PANEL):
                for half in range(2):
                    r, c = 2 * k + half, p * PANEL + j
                    out[p, k, j, half] = np.int16(matrix[r, c]) if r < rows and c < columns else np.int16(0)
