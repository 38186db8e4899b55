"""The process that uses mutated files: a number comes in, what was changed and how it ended go out, a line each."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path

from cimc.errors import CimcError
from tests.fuzz.driver import case

#: Of a case, unless the fuzzer has a limit of its own under this name.
CPU_SECONDS = 30
MEMORY_BYTES = 3 << 30


def main(name: str, seed: str, sound: str, folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    faulthandler.enable()
    warnings.simplefilter("ignore")
    fuzzer = import_module(f"tests.fuzz.{name}")
    files = {path.name: path.read_bytes() for path in sorted(Path(sound).iterdir())}
    path = Path(folder, f"case{fuzzer.SUFFIX}")
    for data in files.values():
        path.write_bytes(data)
        fuzzer.use(path)
    _limit_memory()
    print("ready", file=answers)
    for line in sys.stdin:
        what, data = case(fuzzer, files, int(seed), int(line))
        path.write_bytes(data)
        print(json.dumps(what), file=answers)
        signal.setitimer(signal.ITIMER_PROF, getattr(fuzzer, "CPU_SECONDS", CPU_SECONDS))  # its signal ends the process
        try:
            fuzzer.use(path)
            outcome = "ran", ""
        except CimcError as error:
            outcome = "refused", f"{type(error).__name__}: {error}"
        except BaseException:
            outcome = "exception", traceback.format_exc()[-3000:]
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(outcome), file=answers)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux; elsewhere the limit is not kept to
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(*sys.argv[1:])
