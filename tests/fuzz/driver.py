"""Runs the cases of a fuzzer in a pool of child processes and says how each one ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
#: Seconds of wall time after which a child counts as hanging; its CPU time has a limit of its own (`child.CPU_SECONDS`).
WALL_SECONDS = 120
#: Seconds for the kernels to be compiled with bounds checks.
READY_SECONDS = 900

GOOD = ("refused", "ran")


class Case(NamedTuple):
    """One mutated file."""

    what: str
    data: bytes


class Outcome(NamedTuple):
    """How a case ended.

    ``kind`` is ``refused`` (a CimcError), ``ran``, ``exception`` (any other, or a failed assertion), ``crash`` or ``hang``.
    """

    number: int
    kind: str
    what: str
    detail: str


@dataclass
class Report:
    """What a fuzzer's cases came to."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        if outcome.kind not in GOOD:
            self.failures.append(outcome)


def case(fuzzer: Any, sound: dict[str, bytes], seed: int, number: int) -> Case:
    """Case ``number``: it depends on nothing else."""
    names = sorted(sound)
    name = names[number % len(names)]
    what, data = fuzzer.mutate(sound[name], np.random.default_rng([seed, number]))
    return Case(f"{name}: {what}", data)


def fuzz(name: str, numbers: Iterable[int], *, seed: int = 0, children: int = 2, keep: Path | None = None) -> Report:
    """Run these cases of the fuzzer ``tests.fuzz.NAME``.

    Args:
        name: Of the module.
        numbers: Of the cases.
        seed: Of all cases.
        children: Processes at a time.
        keep: Folder for the files of failed cases; None: they are not kept.
    """
    fuzzer, report, lock = import_module(f"tests.fuzz.{name}"), Report(), Lock()
    left = iter(numbers)

    def take() -> int | None:
        with lock:
            return next(left, None)

    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound")
        sound.mkdir()
        files = fuzzer.sound()
        for file, data in files.items():
            (sound / file).write_bytes(data)
        first = _Child(name, seed, sound, Path(folder, "0"))  # it compiles the kernels that the others load

        def work(number: int) -> None:
            child = first if number == 0 else _Child(name, seed, sound, Path(folder, str(number)))
            for outcome in child.run(iter(take, None)):
                with lock:
                    report.add(outcome)
                    if outcome.kind not in GOOD and keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        made = case(fuzzer, files, seed, outcome.number)
                        (keep / f"{name}-{seed}-{outcome.number}{fuzzer.SUFFIX}").write_bytes(made.data)

        with ThreadPoolExecutor(children) as pool:
            list(pool.map(work, range(children)))
    report.failures.sort()
    return report


class _Child:
    """A process that does case after case, and is replaced when one ends it."""

    def __init__(self, name: str, seed: int, sound: Path, folder: Path) -> None:
        folder.mkdir()
        self._command = [sys.executable, "-m", "tests.fuzz.child", name, str(seed), str(sound), str(folder)]
        self._log = folder / "log"
        self._start()

    def _start(self) -> None:
        environment = {
            **os.environ,
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_OPT": "1",  # compiled sooner; without any optimisation a kernel that calls another is not kept
            "NUMBA_CACHE_DIR": str(ROOT / "build" / "fuzz"),
            "CIMC_THREADS": "1",
        }
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with self._log.open("wb") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen(self._command, cwd=self._log.parent, env=environment, **pipes)
        if self._line(READY_SECONDS) != "ready":
            self._process.kill()
            raise AssertionError(f"a sound file cannot be used:\n{self._log.read_text(errors='replace')[-4000:]}")

    def run(self, numbers: Iterable[int]) -> Iterator[Outcome]:
        """Do these cases."""
        try:
            for number in numbers:
                yield self._one(number)
        finally:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def _one(self, number: int) -> Outcome:
        self._process.stdin.write(f"{number}\n".encode())
        self._process.stdin.flush()
        what = json.loads(self._line(WALL_SECONDS) or '"the mutation itself"')
        line = self._line(WALL_SECONDS)
        if line:
            kind, detail = json.loads(line)
            return Outcome(number, kind, what, detail)
        self._process.kill()  # no line: it ended, or hangs
        code = self._process.wait()
        log = self._log.read_text(errors="replace")[-1500:]
        self._start()
        hangs = line is None or code == -signal.SIGPROF  # the limit of CPU time
        return Outcome(number, "hang" if hangs else "crash", what, f"exit code {code}\n{log}")

    def _line(self, seconds: float) -> str | None:
        """The child's next line; empty where it ended, None where it says nothing for that long."""
        found = b""
        while not found.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                return None
            byte = os.read(self._process.stdout.fileno(), 1)
            if not byte:
                return ""
            found += byte
        return found.decode().strip()
