"""Counter-based Gaussian noise: a keyed hash of 32 bits, then an inverse normal CDF that vectorises.

Every draw is a function of a 64-bit key and a 32-bit counter alone, so the same bytes come out whatever the thread, the block
or the order. The hash is two multiply-xorshift rounds with the constants that C. Wellons found by search ("hash prospector"),
one half of the key going in before, the other between the rounds. The 32 bits, as a signed number, are ``x``, uniform over
(-1, 1); the quantile is ``x * P(log(1 - x**2))``, the form of M. Giles, "Approximating the erfinv function", GPU Computing Gems
(2011), with one minimax polynomial of degree 6 instead of two. It stays within 3e-4 of the true quantile up to 3.5 standard
deviations, beyond which one draw in 2,000 lies, and within 3e-3 up to 4.5. The few beyond, one in 150,000, lie on steps that
grow to 0.1 at the largest, 5.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime.jit import kernel
from cimc.runtime.simd import wide

#: A number of a compiled kernel: numpy's or Python's.
Scalar = Any

_MASK = (1 << 64) - 1
_GOLDEN = np.uint32(0x9E3779B1)
_MIX_1, _MIX_2 = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_S15, _S16 = np.uint32(15), np.uint32(16)
_MANTISSA, _ONE = np.uint32(0x007FFFFF), np.uint32(0x3F800000)
_F = np.float32
_F1 = _F(1)
#: Of a signed number of 32 bits; ``x`` stays below 1.
_UNIT = _F((1 - 2.0**-24) * 2.0**-31)
#: ``v = -log2(y) / 11.55 - 1`` from y's bits as a number, which is piecewise linear in y, and from its mantissa; the largest
#: error of the logarithm is 6.4e-4.
_L_BITS, _L0 = _F(-(2.0**-23) / 11.55), _F(10.0955518508)
_L1, _L2, _L3 = (_F(c) for c in (-0.1773065811, 0.0910718453, -0.0137012793))
#: quantile / x over v, lowest power first.
_Q0, _Q1, _Q2, _Q3 = (_F(c) for c in (3.7651300529, 1.9966250814, -0.4460240400, 0.1920948911))
_Q4, _Q5, _Q6 = (_F(c) for c in (-0.1092366383, -0.0953852600, 0.1374857939))


@lru_cache(maxsize=1024, typed=True)
def key(*parts: int | str) -> int:
    """A 64-bit key from names and numbers; different parts give unrelated keys."""
    digest = blake2b(digest_size=8)
    for part in parts:
        text = f"i{part};" if isinstance(part, int | np.integer) else f"s{len(part)}:{part};"
        digest.update(text.encode())
    return int.from_bytes(digest.digest(), "little")


@intrinsic
def _float_of_bits(_typing: Any, bits: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def _bits_of_float(_typing: Any, value: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(inline="always")
def mix64(value: Scalar) -> Scalar:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): each input bit reaches each output bit."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def hash32(low: Scalar, high: Scalar, counter: Scalar) -> Scalar:
    """32 random bits of a key's halves and a counter, all uint32."""
    h = np.uint32(np.uint32(counter * _GOLDEN) + low)
    h = np.uint32(np.uint32(h ^ (h >> _S16)) * _MIX_1)
    h = np.uint32(h ^ high)
    h = np.uint32(np.uint32(h ^ (h >> _S15)) * _MIX_2)
    return np.uint32(h ^ (h >> _S16))


@njit(inline="always")
def normal_of(bits: Scalar) -> Scalar:
    """The standard normal quantile of 32 random bits, float32; of no bits 0."""
    x = np.float32(np.int32(bits)) * _UNIT
    y: Any = _bits_of_float(_F1 - x * x)
    m = _float_of_bits(np.uint32((y & _MANTISSA) | _ONE))
    # Polynomials in Estrin's order: the chain of dependent operations is what a core waits for.
    v = ((np.float32(np.int32(y)) * _L_BITS + _L0) + m * _L1) + (m * m) * (_L2 + m * _L3)
    v2 = v * v
    return x * (((_Q0 + v * _Q1) + v2 * (_Q2 + v * _Q3)) + (v2 * v2) * ((_Q4 + v * _Q5) + v2 * _Q6))


_FAST = {"contract"}


@kernel(fastmath=_FAST)
def _fill_normals(low: Scalar, high: Scalar, first: Scalar, out: NDArray[np.float32]) -> None:
    wide()
    for i in range(out.size):
        out[i] = normal_of(hash32(low, high, np.uint32(first + np.uint32(i))))


@kernel()
def _fill_uniforms(low: Scalar, high: Scalar, first: Scalar, out: NDArray[np.float32]) -> None:
    wide()
    for i in range(out.size):
        bits = hash32(low, high, np.uint32(first + np.uint32(i)))
        out[i] = np.float32(np.int32(bits >> np.uint32(8))) * np.float32(2.0**-24)


def spans(seed: int, start: int, size: int) -> Iterator[tuple[np.uint32, np.uint32, np.uint32, int, int]]:
    """Cut draws ``start`` to ``start + size`` of a key's stream where the lower 32 bits of the counter wrap.

    Yields:
        The key's halves and the first counter, as `hash32` takes them, then begin and end within the draws.
    """
    done = 0
    while done < size:
        upper, first = divmod(start + done, 1 << 32)
        end = min(size, done + (1 << 32) - first)
        yield *split_key(seed, upper), np.uint32(first), done, end
        done = end


def _fill(kernel: Any, seed: int, start: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
    for low, high, first, begin, end in spans(seed, start, out.size):
        kernel(low, high, first, out[begin:end])
    return out


def split_key(seed: int, upper: int = 0) -> tuple[np.uint32, np.uint32]:
    """The two halves that `hash32` takes, for counters ``upper * 2**32`` on."""
    k = _mix64((seed ^ _mix64(upper)) & _MASK)
    return np.uint32(k & 0xFFFFFFFF), np.uint32(k >> 32)


def _mix64(value: int) -> int:
    """`mix64` in Python integers."""
    z = (value + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def normals(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """Standard normal draws ``start`` to ``start + count`` of a key's stream."""
    return _fill(_fill_normals, seed, start, np.empty(count, np.float32))


def uniforms(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """Draws ``start`` to ``start + count`` of a key's stream, uniform over [0, 1) in steps of 2**-24."""
    return _fill(_fill_uniforms, seed, start, np.empty(count, np.float32))
