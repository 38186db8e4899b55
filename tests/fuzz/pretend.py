"""A fuzzer whose cases end in every way there is, to test the driver."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from numba import njit

from cimc.errors import DataError
from tests.fuzz.mutations import Random, pick

SUFFIX = ".txt"
CPU_SECONDS = 1
ENDS = ("ran", "refused", "error", "assertion", "memory", "index", "crash", "hang")


def sound() -> dict[str, bytes]:
    return {"one": b"ran"}


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    end = pick(random, ENDS)
    return end, end.encode()


@njit
def _read(array: np.ndarray, at: int) -> float:
    return array[at]


def use(path: Path) -> None:
    _read(np.zeros(3), 0)  # compiled while the sound file is used, before the limits count
    match path.read_text():
        case "refused":
            raise DataError("it is refused")
        case "error":
            raise KeyError("a raw error")
        case "assertion":
            raise AssertionError("inconsistent")
        case "memory":
            np.ones(1 << 31)
        case "index":
            _read(np.zeros(3), 1000)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            while True:
                pass
