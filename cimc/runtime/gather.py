"""Codes of a block of positions where vectors run along positions: two rows interleaved, as `gemm` multiplies them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime.jit import kernel
from cimc.runtime.kernels import INNER
from cimc.runtime.rng import Scalar

Array = NDArray[Any]

#: Positions of one vector store; what is gathered beyond a line's end, and must lie beyond the codes' end.
LANES = 16


@intrinsic
def _interleave(_typing: Any, codes: Any, first: Any, second: Any, mask: Any, out: Any, at: Any) -> Any:
    """16 codes from ``first`` and 16 from ``second`` (and ``mask``) of uint8, in turns, into int16 ``out`` from ``at`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, goal = (context.make_array(signature.args[n])(context, builder, value=args[n]).data for n in (0, 4))
        i8, i32 = ir.IntType(8), ir.IntType(32)
        bytes_, pairs = ir.VectorType(i8, LANES), ir.VectorType(i32, LANES)

        def load(place: Any) -> Any:
            codes = builder.load(builder.bitcast(builder.gep(source, [place]), bytes_.as_pointer()), align=1)
            return builder.zext(codes, pairs)

        none, zero = ir.Constant(pairs, ir.Undefined), ir.Constant(i32, 0)
        spread = builder.insert_element(none, builder.trunc(args[3], i32), zero)
        spread = builder.shuffle_vector(spread, none, ir.Constant(pairs, [0] * LANES))
        # Widened first, they need no permutation: the second of a pair is its upper half.
        upper = builder.shl(builder.and_(load(args[2]), spread), ir.Constant(pairs, [16] * LANES))
        goal = builder.bitcast(builder.gep(goal, [args[5]]), pairs.as_pointer())
        builder.store(builder.or_(load(args[1]), upper), goal, align=2)
        return context.get_dummy_value()

    i = types.int64
    return types.void(codes, i, i, i, out, i), codegen


@kernel(**INNER)
def place(first: Scalar, count: Scalar, size: Scalar, base: Array, line_ends: Array, starts: Array, ends: Array) -> Scalar:
    """Where the lines of a block start in the codes, and end in the block; how many there are."""
    done, lines = 0, 0
    while done < count:
        image, position = divmod(first + done, base.size)
        starts[lines] = image * size + base[position]
        done = min(count, done + line_ends[position] - position)
        ends[lines] = done
        lines += 1
    return lines


@kernel(**INNER)
def gather(codes: Array, starts: Array, ends: Array, lines: Scalar, offsets: Array, words: Array) -> None:
    """Interleave the codes of a block: ``words[k, i] = codes[at(i) + offsets[2 * k]], codes[at(i) + offsets[2 * k + 1]]``.

    Lines of positions that end at ``ends`` have their codes one behind the other, from ``starts`` on. Beyond an odd number
    of rows stands 0.
    """
    tall = offsets.size
    if lines == ends[lines - 1]:
        for k in range((tall + 1) // 2):
            first, second = offsets[2 * k], offsets[min(2 * k + 1, tall - 1)]
            mask, pair = 255 if 2 * k + 1 < tall else 0, words[k]
            for i in range(lines):
                pair[i, 0] = codes[starts[i] + first]
                pair[i, 1] = codes[starts[i] + second] & mask
        return
    flat, pitch, begin = words.reshape(-1), words.shape[1] * 2, 0
    for n in range(lines):
        # The last vector reaches into the next line, which is written after it.
        for i in range(begin, ends[n], LANES):
            at = starts[n] + i - begin
            for k in range(tall // 2):
                _interleave(codes, at + offsets[2 * k], at + offsets[2 * k + 1], 255, flat, k * pitch + 2 * i)
            if tall % 2:
                last = at + offsets[tall - 1]
                _interleave(codes, last, last, 0, flat, tall // 2 * pitch + 2 * i)
        begin = ends[n]
