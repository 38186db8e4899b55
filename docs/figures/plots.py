"""Plots of results by matplotlib: the figures of ``results.json``, and the IR drop of an array, which is computed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#57606a"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cimc",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def lenet(axes: Any, data: dict[str, Any]) -> None:
    """Accuracy of each seed of LeNet trained on the chip, by setting."""
    for row, setting in enumerate(data["settings"]):
        seeds = np.array(setting["seeds_percent"], float)
        axes.plot(seeds, np.full(len(seeds), row), "o", color=BLUE, alpha=0.55, markersize=6)
        axes.plot([np.median(seeds)] * 2, [row - 0.28, row + 0.28], color=BLUE, linewidth=2.5)
    for value, name, colour in ((data["paper_percent"], "paper", ORANGE), (data["float_percent"], "FP32", GREEN)):
        axes.axvline(value, color=colour, linestyle="--", linewidth=1.3)
        axes.text(value + 0.02, -0.75, f"{name} {value} %", color=colour)
    axes.set_yticks(range(len(data["settings"])), [setting["name"] for setting in data["settings"]])
    axes.set_ylim(len(data["settings"]) - 0.5, -1)
    axes.set_xlim(97.2, 99.2)
    axes.set_xlabel("test accuracy, %: a dot a seed, a bar their median")


def resnet(axes: Any, data: dict[str, Any]) -> None:
    """Accuracy of ten dice of a ResNet, by target and lever."""
    rows = [(target, k) for target in data["targets"] for k in range(len(data["settings"]))]
    for row, (target, k) in enumerate(rows):
        median, low, high = (float(value) for value in target["median_low_high_percent"][k])
        colour = (GREY, BLUE, GREEN)[k]
        axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([median], [row], "o", color=colour, markersize=7)
    axes.axvline(data["float_percent"], color=ORANGE, linestyle="--", linewidth=1.3)
    axes.text(data["float_percent"], -0.75, f"float {data['float_percent']} %  ", color=ORANGE, ha="right")
    axes.set_yticks(range(len(rows)), [f"{target['name']}: {data['settings'][k]}" for target, k in rows])
    axes.set_ylim(len(rows) - 0.5, -1)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy of ten dice, %: median, lowest to highest")


def drop(axes: Any) -> None:
    """Share of each cell's current that is left, by the exact solver."""
    from cimc.runtime.wires.exact import transfer_us
    from cimc.runtime.wires.lines import Line

    rows, columns, g_us = 256, 64, 25.0
    word = Line.of(np.arange(columns), columns, 1.0, 0.0, (True, False), 0.0)
    bit = Line.of(np.arange(rows), rows, 1.0, 0.0, (False, True), 0.0)
    effective = transfer_us(np.full((rows, columns), g_us), word, bit)
    left = 100 * effective.sum(0) / (rows * g_us)
    share = 100 * effective / g_us
    shown = axes.imshow(share, aspect="auto", cmap="cividis", vmin=40, vmax=100, interpolation="nearest")
    axes.set_xlabel(f"bit line; bit lines keep {left.min():.0f} to {left.max():.0f} % of their current")
    axes.set_ylabel("word line, driven from the left,\nbit lines sensed at the bottom")
    axes.figure.colorbar(shown, ax=axes, label="effective over real conductance, %")


def draw(folder: Path) -> None:
    """Write the plots into ``folder``."""
    results = json.loads((HERE / "results.json").read_text("utf-8"))
    with plt.rc_context(STYLE):
        for name, size, plot in (
            ("lenet-training.svg", (7.6, 3.0), lambda axes: lenet(axes, results["lenet"])),
            ("resnet-levers.svg", (7.6, 3.2), lambda axes: resnet(axes, results["resnet"])),
            ("ir-drop.png", (6.4, 3.6), drop),
        ):
            figure, axes = plt.subplots(figsize=size, layout="constrained", facecolor="white")
            plot(axes)
            figure.savefig(folder / name, dpi=110, facecolor="white", metadata={"Date": None} if name.endswith("svg") else None)
            plt.close(figure)
