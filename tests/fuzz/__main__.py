"""``python -m tests.fuzz [NAME…] [--cases N] [--seed S] [--only N] [--children N] [--keep DIR]``: counts by outcome, failures."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.driver import fuzz

FUZZERS = ("cim", "checkpoint", "cimg", "faults", "npz", "onnx_file")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("names", nargs="*", default=FUZZERS)
    parser.add_argument("--cases", type=int, default=2000, help="of each fuzzer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the cases to run")
    parser.add_argument("--children", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz/failed"), help="folder for the files of failed cases")
    options = parser.parse_args()
    failed = 0
    for name in options.names:
        begin = time.monotonic()
        numbers = range(options.cases) if options.only is None else options.only
        report = fuzz(name, numbers, seed=options.seed, children=options.children, keep=options.keep)
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(report.counts.items()))
        print(f"{name}: {counts} ({time.monotonic() - begin:.0f} s)", flush=True)
        for outcome in report.failures:
            detail = outcome.detail.replace("\n", "\n    ")
            print(f"  {outcome.kind}, case {outcome.number}: {outcome.what}\n    {detail}")
        failed += len(report.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
