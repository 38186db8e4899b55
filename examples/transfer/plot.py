"""Box plot of the transfer experiment (needs matplotlib, the extra ``report``)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

#: What stands under each box.
NAMES = {
    "mixed": "mixed precision,\ntrained on the chip",
    "fp32": "FP32",
    "qat": "quantisation-\naware",
    "mixed-2bit": "mixed precision,\n2-bit window",
}


def plot(found: dict[str, Any], path: Path) -> None:
    """A box of all dice for each kind of model, a mark for each training where it was trained."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = found["kinds"]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    boxes = [[100 * a for row in kinds[name]["on_dice"] for a in row] for name in kinds]
    axes.boxplot(boxes, widths=0.5, whis=(0, 100), medianprops={"color": "tab:red"})
    for at, name in enumerate(kinds, 1):
        trained = [100 * a for a in kinds[name]["where_trained"]]
        axes.plot([at - 0.35] * len(trained), trained, "_", color="tab:blue", label="where trained" if at == 1 else None)
    if found["fp32_accuracy"]:
        axes.axhline(100 * found["fp32_accuracy"], color="gray", linestyle="--", linewidth=1, label="FP32, median")
        axes.axhline(99 * found["fp32_accuracy"], color="gray", linestyle=":", linewidth=1, label="0.99 of it")
    axes.set_xticks(range(1, len(kinds) + 1), [NAMES[name] for name in kinds])
    axes.set_ylabel("accuracy on other dice, %")
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=here / "results.json", help="what transfer.py printed")
    parser.add_argument("--output", type=Path, default=here / "transfer.png")
    options = parser.parse_args()
    plot(json.loads(options.results.read_text()), options.output)


if __name__ == "__main__":
    main()
