"""Training on the chip: curves over epochs, and what it left in the devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.journal import LineError, json_lines
from cimc.pages.parts import Artefact, Section, Table
from cimc.report.distributions import MOST_LAYERS, boxes, histograms
from cimc.report.pictures import Line, Picture
from cimc.runtime.state import PREFIX
from cimc.training.checkpoint import has_run, metrics_of, read_checkpoint

Rows = Sequence[Mapping[str, Any]]

#: Title, label of the axis, what it shows, and the figures of a row by label; shares become percent.
_CURVES: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("Loss", "loss", "Mean loss of each epoch.", {"training": "loss", "test": "validation_loss"}),
    ("Accuracy", "accuracy, %", "Share of labels that are met.", {"training": "accuracy", "test": "validation_accuracy"}),
    ("Writes", "count", "Updates of weights, and writes of devices, in each epoch.",
     {"updates of weights": "updates", "writes of devices": "device_writes"}),
    ("Saturated conversions", "share, %", "Share of the conversions that reach the end of the ADC's range, by epoch.",
     {"forward": "adc_saturation_share", "backward": "backward_saturation_share"}),
    ("Learning rate", "learning rate", "Of the last step of each epoch.", {"learning rate": "lr"}),
)  # fmt: skip
_TABLE = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "updates", "device_writes", "lr", "seconds")


def is_run(path: Path) -> bool:
    """Whether a folder holds a training run."""
    return has_run(path) or metrics_of(path).is_file()


def run_artefact(path: Path) -> Artefact:
    """A checkpoint folder of `cimc train`: the epochs, and what the devices have been through.

    Raises:
        ArtifactError: A file of it is damaged.
    """
    rows = _rows(metrics_of(path))
    state = state_of(read_checkpoint(path).chip) if has_run(path) else {}
    sections = [history_section(rows), device_section(state)]
    found = [section for section in sections if section is not None]
    if not found:
        raise ArtifactError("the run has no epoch and no checkpoint yet", where=str(path), fix="wait for its first epoch")
    held = {name.removesuffix("/g_us"): array.reshape(-1) for name, array in state.items() if name.endswith("/g_us")}
    return Artefact(path.name or str(path), "training run", run_facts(rows), found, compared=held)


def run_facts(rows: Rows) -> dict[str, object]:
    """The figures of a run after its last epoch."""
    if not rows:
        return {}
    last = rows[-1]
    shares = {"accuracy in training, %": "accuracy", "accuracy on test data, %": "validation_accuracy"}
    facts: dict[str, object] = {"epochs": len(rows), "loss": last.get("loss")}
    facts |= {label: _percent(last.get(name)) for label, name in shares.items()}
    best = [row["validation_accuracy"] for row in rows if isinstance(row.get("validation_accuracy"), float)]
    facts["best accuracy on test data, %"] = _percent(max(best)) if best else None
    facts |= {
        "updates of a weight, mean": last.get("updates_per_weight"),
        "writes of a device, mean": last.get("device_writes_per_device"),
    }
    return facts


def history_section(rows: Rows) -> Section | None:
    """Curves over the epochs, and a table of them; None where no epoch has ended."""
    if not rows:
        return None
    pictures = []
    epochs = np.array([row["epoch"] for row in rows], np.float64)
    for title, label, about, figures in _CURVES:
        scale = 100.0 if label.endswith("%") else 1.0
        lines = []
        for name, key in figures.items():
            values = np.array([np.nan if row.get(key) is None else scale * row[key] for row in rows], np.float64)
            known = np.isfinite(values)
            if known.any() and (values[known] != 0).any():
                lines.append(Line(name, epochs[known], values[known]))
        if lines:
            pictures.append(Picture(title, "epoch", label, lines, about))
    table = Table("Epochs", _TABLE, [[row.get(name) for name in _TABLE] for row in rows])
    return Section("Training", [], [], pictures, [table])


def device_section(state: Mapping[str, NDArray[Any]]) -> Section | None:
    """Conductances, and box plots of updates and writes, by layer.

    Args:
        state: Arrays by ``LAYER/PART``, parts as in `cimc.ir.records`: ``g_us``, ``updates``, ``writes``.
    """
    pictures = []
    for part, title, label, about in (
        ("updates", "Updates of each weight", "updates", "Updates of each weight in training, by layer."),
        ("writes", "Writes of each device", "writes", "Writes of each device in training, by layer."),
    ):
        counts = {
            name.removesuffix(f"/{part}"): array for name, array in state.items() if name.endswith(f"/{part}") and array.size
        }
        if counts:
            pictures.append(boxes(title, label, about, list(counts), list(counts.values())))
    held = {name.removesuffix("/g_us"): array for name, array in state.items() if name.endswith("/g_us") and array.size}
    if held:
        some = dict(list(held.items())[:MOST_LAYERS])
        cut = f" The first {MOST_LAYERS} of {len(held)} layers." if len(held) > len(some) else ""
        pictures.append(histograms("Conductances", "conductance, µS", f"What the devices of each layer hold.{cut}", some))
    return Section("Devices after training", [], [], pictures) if pictures else None


def trained_section(tensors: Mapping[str, NDArray[Any]]) -> Section | None:
    """The same of the chip in a trained program; None where it holds none."""
    return device_section(state_of(tensors))


def state_of(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What tensors hold of a chip (`cimc.ir.records`), by names without its prefix."""
    return {name.removeprefix(PREFIX): array for name, array in tensors.items() if name.startswith(PREFIX)}


def _percent(share: Any) -> float | None:
    return 100 * share if isinstance(share, int | float) else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file; a kill may have cut the last one."""
    fix = "the run's own metrics.jsonl"
    try:
        rows = json_lines(path.read_text("utf-8") if path.is_file() else "")
    except LineError as error:
        raise ArtifactError(f"line {error.number} is no epoch", where=str(path), fix=fix) from error
    except (OSError, UnicodeError) as error:
        raise ArtifactError("it cannot be read as text", where=str(path), fix=fix) from error
    figures = [key for *_, keys in _CURVES for key in keys.values()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(not isinstance(row.get(key), int | float | None) for key in ("epoch", *figures)):
            raise ArtifactError(f"line {number} is no epoch", where=str(path), fix=fix)
        if not isinstance(row.get("epoch"), int):
            raise ArtifactError(f"line {number} has no epoch", where=str(path), fix=fix)
    return rows
