"""Arrays of a kernel that nobody counts references to.

Each slice of an array is counted while it is used, by instructions that wait for all memory: in a kernel that takes rows one by
one they took as long as its arithmetic.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _bare(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value=value)
        array.meminfo, array.parent = (ir.Constant(owner.type, None) for owner in (array.meminfo, array.parent))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for number, item in enumerate(kind.types):
            one = _bare(context, builder, item, builder.extract_value(value, number))
            value = builder.insert_value(value, one, number)
    return value


@intrinsic
def borrowed(_typing: Any, held: Any) -> Any:
    """An argument of a kernel, an array or a tuple with arrays, for as long as the kernel runs: its caller holds it.

    Only for arguments: an array of the kernel's own would be freed before its last use.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _bare(context, builder, signature.args[0], args[0])

    return held(held), codegen
