"""`kernel`: the decorator of compiled functions. They are kept compiled from one process to the next (`kernel_files`).

Compiled functions that are inlined, and those that only others of their module call, need no more than numba's ``njit``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from numba import njit
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps, loads

from cimc.runtime import kernel_files

#: Kernels that this process compiled and kept.
compiled: list[str] = []


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba, without the interpreter's lock, and keep the compiled code.

    Args:
        options: Of ``numba.njit``.

    Raises:
        TypeError: The function is a closure: what it closes over would not show in the sources.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        if function.__closure__:
            raise TypeError(f"{function.__qualname__} is a closure: compile it with njit")
        made = njit(nogil=True, **options)(function)
        made._cache = KernelCache(function)
        return made

    return compiled


class KernelCache(NullCache):  # type: ignore[misc]
    """Takes the place of numba's cache of a function: numba asks it before it compiles, and gives it what it compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        self._kernel = f"{function.__module__}.{function.__qualname__}"
        self._code = hashlib.sha256(code.co_code).hexdigest(), code.co_firstlineno
        kernel_files.forget_if_edited(code.co_filename)

    def _file(self, signature: Any, codegen: Any) -> str:
        """Of these argument types on this processor."""
        key = repr((signature, codegen.magic_tuple(), self._code))
        return f"{self._kernel}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code of a signature; None where it has to be compiled."""
        target_context.refresh()
        content = kernel_files.read(self._file(sig, target_context.codegen()))
        if content is not None:
            with suppress(Exception):  # whatever numba cannot take is compiled again
                signature, parts = loads(content)
                if signature == sig:  # types that look alike may differ
                    return CompileResult._rebuild(target_context, *parts)
        _say("compiling kernels; this takes about a minute, once (cimc warmup does it beforehand)")
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if it does not depend on this process."""
        if data.lifted or data.library.has_dynamic_globals:
            return
        compiled.append(self._kernel)
        if not kernel_files.write(self._file(sig, data.codegen), dumps((sig, data._reduce()))):
            _say("no folder takes the compiled kernels, the next start compiles them again; set NUMBA_CACHE_DIR to a folder")


_quiet = False


def quiet() -> None:
    """Say no more that kernels are compiled: who calls this says so."""
    global _quiet
    _quiet = True


@cache
def _say(text: str) -> None:
    """One line on standard error, once a process."""
    if sys.stderr is not None and not (_quiet and text.startswith("compiling")):
        with suppress(OSError, ValueError):
            print(f"cimc: {text}", file=sys.stderr, flush=True)
