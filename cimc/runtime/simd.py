"""What kernels are compiled for: vectors as wide as the CPU has them. Results do not depend on it."""

from __future__ import annotations

from functools import cache

from numba.core import config
from numba.core.codegen import get_host_cpu_features


@cache
def has(*features: str) -> bool:
    """Whether kernels are compiled for a CPU with all of these features, named as LLVM names them."""
    found = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {f"+{name}" for name in features} <= set(found.split(","))


#: Bytes of the vectors that hand-written kernels compute with.
VECTOR = 64 if has("avx512f", "avx512bw") else 32
