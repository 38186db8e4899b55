"""What kernels are compiled for: vectors as wide as the CPU has them. Results do not depend on it."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numba import types
from numba.core import config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray


@cache
def has(*features: str) -> bool:
    """Whether kernels are compiled for a CPU with all of these features, named as LLVM names them."""
    found = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {f"+{name}" for name in features} <= set(found.split(","))


#: Bytes of the vectors that kernels compute with. A loop over that many elements of 4 bytes is one of four vectors a turn, as
#: LLVM likes them; what is left over goes one by one.
VECTOR = 64 if has("avx512f", "avx512bw") else 32


@intrinsic
def wide(_typing: Any) -> Any:
    """Called in a kernel: its loops take vectors of 64 bytes where there are such. LLVM takes half of one on most CPUs."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        if VECTOR == 64:
            # Not among the attributes that llvmlite knows, which it asks its own `add` for.
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """As numpy's, beginning at a multiple of 64 bytes: a vector that lies in two cache lines is two."""
    size = prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    array: NDArray[Any] = room[begin : begin + size].view(dtype).reshape(shape)
    return array
