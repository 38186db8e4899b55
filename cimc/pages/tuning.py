"""What a search tried: its Pareto fronts and its course."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cimc.pages.parts import Artefact, Section, Table
from cimc.report.pictures import Line, Picture
from cimc.tuning.trace import Trial, front

_COSTS = {
    "arrays": "arrays",
    "latency": "latency of an image, ms or firings",
    "energy": "energy of an image, mJ or tile operations",
}


def tuning_artefact(trials: Sequence[Trial], name: str) -> Artefact:
    """The trials of `cimc tune`, in order; at least one."""
    best = min(trials, key=lambda trial: trial.measured.lost_points)
    facts: dict[str, object] = {
        "trials": len(trials), "images": best.measured.images, "accuracy of ONNX Runtime, %": 100 * best.measured.reference,
        "points lost by the first trial": trials[0].measured.lost_points, "points lost by the best": best.measured.lost_points,
        "arrays of the first": trials[0].cost.arrays, "arrays of the best": best.cost.arrays,
    }  # fmt: skip
    return Artefact(name, "search for settings", facts, [tuning_section(trials)])


def tuning_section(trials: Sequence[Trial]) -> Section:
    """A front for each cost, and the course of the search."""
    lost = np.array([trial.measured.lost_points for trial in trials])
    pictures = []
    for word, label in _COSTS.items():
        cost = np.array([float(getattr(trial.cost, word)) for trial in trials])
        if np.ptp(cost) == 0 and len(trials) > 1:
            continue
        x, y = lower_left(cost, lost)
        about = f"Each trial's loss of accuracy over its {word}, and the trials that no other one beats in both."
        lines = [Line("trials", cost, lost, points=True), Line("front", x, y)]
        pictures.append(Picture(f"Accuracy lost over {word}", label, "points lost", lines, about))
    order = np.arange(1, len(trials) + 1, dtype=np.float64)
    lines = [Line("trial", order, lost, points=True), Line("least so far", order, np.minimum.accumulate(lost))]
    pictures.append(
        Picture("Course of the search", "trial", "points lost", lines, "Accuracy lost by each trial, in the order tried.")
    )
    kept = set(map(id, front(trials)))
    columns = ("trial", "what", "points lost", "± points", "arrays", "latency", "energy", "digital, %", "on the front")
    rows = [
        (number, trial.candidate.words(), trial.measured.lost_points, trial.measured.error_points, trial.cost.arrays,
         trial.cost.latency, trial.cost.energy, 100 * trial.cost.digital_share, "yes" if id(trial) in kept else "")
        for number, trial in enumerate(trials, 1)
    ]  # fmt: skip
    return Section("Trials", [], [], pictures, [Table("Trials, in order", columns, rows)])


def lower_left(cost: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other one beats in both figures, by rising cost."""
    order = np.lexsort((lost, cost))
    least = np.minimum.accumulate(lost[order])
    better = np.concatenate([[True], least[1:] < least[:-1]])
    return cost[order][better], lost[order][better]
