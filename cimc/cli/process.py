"""The command as a process: its standard streams, the signals that stop it, its exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

_SAID = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class Stopped(BaseException):
    """A signal asks the process to end; the exit code is 128 plus its number, as in shells.

    Like `KeyboardInterrupt` it is no `Exception`, so that code which goes on after errors does not go on after it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number
        self.what = _SAID.get(signal.Signals(number).name, "stopped")
        self.where: str | None = None
        self.fix: str | None = None

    def __str__(self) -> str:
        return f"{self.what}\n  try: {self.fix}" if self.fix else self.what


class _Stream(io.FileIO):
    """A descriptor to write to. The first failure is kept in ``failed``, and what comes after it is dropped."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error
        return memoryview(data).nbytes


def run(command: Callable[[], object]) -> NoReturn:
    """Run a command to the end of the process.

    Standard output and error may be closed, full or without a reader: the command does its work all the same. Output that was
    lost makes a good exit code 1, and is told in a line unless the reader left on purpose.
    """
    _open_closed()
    out, sys.stdout = _wrapped(1, sys.stdout)
    _, sys.stderr = _wrapped(2, sys.stderr)
    _stop_on_signals()
    code: Any = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    except Stopped as error:  # before there was a command to tell it
        print(error, file=sys.stderr)
        code = error.exit_code
    sys.stdout.flush()
    if out.failed is not None and not code:
        code = 1
        if out.failed.errno != errno.EPIPE:
            print(f"error: standard output: cannot write: {out.failed.strerror}", file=sys.stderr)
    sys.exit(code)


def _open_closed() -> None:
    """Give descriptors 0 to 2 to the null device where they are closed, so that no other file gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _wrapped(descriptor: int, old: Any) -> tuple[_Stream, io.TextIOWrapper]:
    """A text stream like the old one on a descriptor; a character that its encoding lacks is escaped."""
    if old is not None:
        old.flush()
    stream = _Stream(descriptor, "w", closefd=False)
    text = io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or stream.isatty(),
    )
    return stream, text


def _stop_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP raise `Stopped` in the main thread: the first one alone, not to disturb the cleaning up.

    One that the caller lets us ignore (nohup, a job in the background) stays ignored.
    """
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise Stopped(number)

    def lost(found: Any) -> None:
        """An exception raised in a callback or finaliser goes no further: try again a little later."""
        nonlocal stopping
        if not isinstance(found.exc_value, Stopped):
            sys.__unraisablehook__(found)
            return
        stopping = False
        again = threading.Timer(0.05, os.kill, (os.getpid(), found.exc_value.number))
        again.daemon = True
        again.start()

    sys.unraisablehook = lost
    for name in _SAID:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            with suppress(ValueError):  # not the main thread
                signal.signal(number, stop)
