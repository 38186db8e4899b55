"""The paper's LeNet experiment over several seeds: constant and cosine rate, backward on the array, naive updates, FP32.

Prints JSON: every run, and for each setting median, least and most accuracy of the last epoch on all 10,000 test images. A run
takes about a minute and a half on two free cores. Runs that the output file holds already are not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from train import run

from cimc.files import write_file

#: Name of a setting -> what `train.run` takes.
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "cosine, from the model's weights": {"schedule": "cosine", "init": "weights"},
    "learnt scales, constant": {"schedule": "constant", "learn_scales": "layer"},
    "learnt scales, cosine": {"schedule": "cosine", "learn_scales": "layer"},
    "analog backward": {"schedule": "cosine", "backward": "analog", "changes": ["array.transposed.dac_bits=8"]},
    "fp32": {"schedule": "cosine", "target": "ideal", "init": "weights", "optimizer": "adamw"},
    "fp32, constant": {"schedule": "constant", "target": "ideal", "init": "weights", "optimizer": "adamw"},
    **{
        f"naive, SGD at {rate}": {"schedule": "constant", "update": "naive", "optimizer": "sgd", "lr": rate}
        for rate in (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 3.0)
    },
    "residual": {"schedule": "cosine", "update": "residual"},
    "residual, bulk-rram-256": {"schedule": "cosine", "update": "residual", "target": "bulk-rram-256"},
    "residual, from one pulse step on": {"schedule": "cosine", "update": "residual", "limit": 0.0},
}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a table shows of one setting."""
    accuracies = [r["accuracy"] for r in runs]
    return {
        "seeds": [r["seed"] for r in runs],
        "accuracy": {"median": median(accuracies), "least": min(accuracies), "most": max(accuracies)},
        "updates_per_weight": median(r["updates_per_weight"] for r in runs),
        "fewer_updates": median(r["fewer_updates"] for r in runs),
        "device_writes": median(r["device_writes"] for r in runs),
        "seconds": median(r["seconds"] for r in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME", help=", ".join(SETTINGS)
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, help="keep runs in this file, and go on from it")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    if options.output is not None and options.output.is_file():
        runs = json.loads(options.output.read_text())["runs"]
    for seed in options.seeds:
        for name in options.settings:
            if any(r["seed"] == seed for r in runs.get(name, ())):
                continue
            runs.setdefault(name, []).append(run(seed, **SETTINGS[name]))
            text = json.dumps({"summary": {n: summary(r) for n, r in runs.items()}, "runs": runs}, indent=2)
            if options.output is not None:
                write_file(options.output, f"{text}\n".encode())
    print(json.dumps({n: summary(r) for n, r in runs.items()}, indent=2))


if __name__ == "__main__":
    main()
