"""The micro kernels of the backward pass: a tile of ten vectors of sums in registers, over data that lie where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime.jit import kernel
from cimc.runtime.simd import VECTOR

Array = NDArray[Any]
Index = NDArray[np.int64]

#: Bytes of a tile's rows: few layers have channels for more.
WIDTH = 64
#: Rows and vectors of a tile: 10 sums and what they take fit 16 registers, and two units never wait for a sum. Of a single
#: channel's kernel, 5 x 5 or 3 x 3, five or ten rows leave little over.
ROWS, COLUMNS = (10, 1) if VECTOR == 64 else (5, 2)
#: Bytes of a vector of `transpose`: wider squares hold more of rows that are not there.
_SQUARE = 32

cgutils: Any = untyped_cgutils
_I64 = ir.IntType(64)


def tile(height: int, columns: int, width: int) -> Any:
    """A tile of `multiply` of that many rows and vectors, of ``width`` bytes; bytes do not depend on them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, a_step, b_at, b_step, pairs, count, out_at = (args[n] for n in (2, 3, 5, 6, 9, 10, 13))
        a, rows, b, a_from, b_from, out, out_rows = (
            context.make_array(signature.args[n])(context, builder, value=args[n]).data for n in (0, 1, 4, 7, 8, 11, 12)
        )
        single = signature.args[0].dtype == types.float32
        element, size = (ir.FloatType(), 4) if single else (ir.DoubleType(), 8)
        lanes, i32 = width // size, ir.IntType(32)
        vector = ir.VectorType(element, lanes)
        name = f"llvm.fma.v{lanes}f{8 * size}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        none, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
        # Inlined, the kernel would share its registers with all that is around it.
        builder.function.attributes.add("noinline")
        # Nothing, but a step that LLVM knew it would make ten addresses of, in the place of one and ten offsets.
        a_step = builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [a_step], False)

        def place(base: Any, index: Any) -> Any:
            return builder.gep(base, [ir.Constant(_I64, index) if isinstance(index, int) else index])

        def at_vector(pointer: Any) -> Any:
            return builder.bitcast(pointer, vector.as_pointer())

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(columns)] for _ in range(height)]
        for line in sums:
            for one in line:
                builder.store(ir.Constant(vector, None), one)
        numbers = [builder.add(row, ir.Constant(_I64, i)) for i in range(height)]
        starts = [builder.load(place(rows, number)) for number in numbers]
        with cgutils.for_range(builder, pairs) as outer:
            a_begin = builder.load(place(a_from, outer.index))
            lines = [place(a, builder.add(start, a_begin)) for start in starts]
            image = place(b, builder.add(builder.load(place(b_from, outer.index)), b_at))
            with cgutils.for_range(builder, count) as inner:
                here = place(image, builder.mul(inner.index, b_step))
                vectors = [builder.load(at_vector(place(here, j * lanes)), align=size) for j in range(columns)]
                for line, own in zip(lines, sums, strict=True):
                    alone = builder.load(place(line, builder.mul(inner.index, a_step)))
                    factor = builder.shuffle_vector(builder.insert_element(none, alone, ir.Constant(i32, 0)), none, first)
                    for one, other in zip(own, vectors, strict=True):
                        builder.store(builder.call(fma, [factor, other, builder.load(one)]), one)
        for number, own in zip(numbers, sums, strict=True):
            line = place(out, builder.add(out_at, builder.load(place(out_rows, number))))
            for j, one in enumerate(own):
                goal = at_vector(place(line, j * lanes))
                builder.store(builder.fadd(builder.load(goal, align=size), builder.load(one)), goal, align=size)
        return context.get_dummy_value()

    @intrinsic
    def kernel(
        _typing: Any, a: Any, rows: Any, row: Any, a_step: Any, b: Any, b_at: Any, b_step: Any, a_from: Any, b_from: Any,
        pairs: Any, count: Any, out: Any, out_rows: Any, out_at: Any,
    ) -> Any:  # fmt: skip
        i = types.int64
        return types.void(a, rows, i, i, b, i, i, a_from, b_from, i, i, out, out_rows, i), codegen

    return kernel


_tile = tile(ROWS, COLUMNS, VECTOR)


@kernel()
def multiply(
    a: Array, rows: Index, a_step: int, b: Array, b_at: int, b_step: int, a_from: Index, b_from: Index, count: int,
    out: Array, out_rows: Index, out_at: int,
) -> None:  # fmt: skip
    """``out[i, j] += sum over k, c of a[i, k, c] * b[k, c, j]``: all rows, a tile at a time, by 64 bytes of columns.

    Args:
        a: Factors, flat. All offsets are in elements.
        rows: Where rows of ``a`` start, whole tiles of them.
        a_step: From c to c + 1.
        b: Flat.
        b_at: First column.
        b_step: From c to c + 1.
        a_from: Where each k starts in a row.
        b_from: The same in ``b``.
        count: Number of c.
        out: Flat.
        out_rows: Where each row starts; rows may overlap.
        out_at: First column.
    """
    for row in range(0, rows.size, ROWS):
        _tile(a, rows, row, a_step, b, b_at, b_step, a_from, b_from, a_from.size, count, out, out_rows, out_at)


@intrinsic
def _square(_typing: Any, source: Any, at: Any, pitch: Any, last: Any, goal: Any, goal_at: Any, goal_pitch: Any) -> Any:
    """A square of `transpose`: a vector each of as many rows, of which the ``last`` stands for those beyond."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begins = [context.make_array(signature.args[n])(context, builder, value=args[n]).data for n in (0, 4)]
        element, size = (ir.FloatType(), 4) if signature.args[0].dtype == types.float32 else (ir.DoubleType(), 8)
        lanes = _SQUARE // size
        vector, indices = ir.VectorType(element, lanes), ir.VectorType(ir.IntType(32), lanes)

        def place(array: int, at: Any, pitch: Any, row: Any) -> Any:
            line = builder.gep(begins[array], [builder.add(at, builder.mul(pitch, row))])
            return builder.bitcast(line, vector.as_pointer())

        numbers = [ir.Constant(_I64, i) for i in range(lanes)]
        rows = [builder.select(builder.icmp_signed("<", i, args[3]), i, args[3]) for i in numbers]
        vectors = [builder.load(place(0, args[1], args[2], row), align=size) for row in rows]
        # Each time the first half is interleaved with the second, columns come one step nearer to being rows.
        halves = [ir.Constant(indices, [h + i // 2 + i % 2 * lanes for i in range(lanes)]) for h in (0, lanes // 2)]
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(vectors[: lanes // 2], vectors[lanes // 2 :], strict=True)
            vectors = [builder.shuffle_vector(one, other, half) for one, other in pairs for half in halves]
        for i, one in zip(numbers, vectors, strict=True):
            builder.store(one, place(1, args[5], args[6], i), align=size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, i, goal, i, i), codegen


@kernel()
def transpose(source: Array, at: int, pitch: int, rows: int, size: int, goal: Array, goal_at: int, goal_pitch: int) -> None:
    """``goal[goal_at + i * goal_pitch + r] = source[at + r * pitch + i]`` for ``i < size``, ``r < rows``.

    Rows beyond, up to whole vectors, hold anything.
    """
    lanes = _SQUARE // source.itemsize
    for r in range(0, rows, lanes):
        last = min(rows - r, lanes) - 1
        for i in range(0, size - lanes + 1, lanes):
            _square(source, at + r * pitch + i, pitch, last, goal, goal_at + i * goal_pitch + r, goal_pitch)
        for i in range(size - size % lanes, size):
            for k in range(last + 1):
                goal[goal_at + i * goal_pitch + r + k] = source[at + (r + k) * pitch + i]
