"""What a population of dice came to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.errors import CimcError
from cimc.files import write_file
from cimc.population.pictures import pictures_of_population
from cimc.population.wafer import Wafer
from cimc.report.drawn import figure_of
from cimc.report.metrics import LOWER_IS_BETTER, SHARES
from cimc.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Quantiles:
    """Of an accuracy over dice."""

    median: float
    q25: float
    q75: float
    min: float
    max: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Quantiles:
        q = np.quantile(values, (0.5, 0.25, 0.75, 0.0, 1.0))
        return cls(*(float(value) for value in q))


@dataclass(frozen=True)
class Yield:
    """Share of dice with at least an accuracy, and the ends of its 95 % confidence interval by Wilson's score.

    E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """

    accuracy: float
    share: float
    low: float
    high: float
    chips: int


@dataclass(frozen=True, repr=False)
class Population(Shown):
    """Accuracies of dice, or another metric of them, by setting and time.

    Attributes:
        settings: Of each point: fields of the target by path.
        times: Seconds.
        seeds: Of the dice.
        accuracy: ``[points, times, chips]``; of another ``metric`` its values.
        agreement: The same shape: share of images on which chip and ONNX Runtime say the same; NaN of a regression.
        reference: Accuracy (or ``metric``) of ONNX Runtime on the same images; of several files the median of theirs.
        images: How many.
        metric: ``accuracy``, ``top5``, ``mse``, ``mae`` or ``r2``; tables and JSON call the values so.
        wafer: The map that the dice are of; None: there is none.
        files: Of several programs, by name: accuracy (or ``metric``) of ONNX Runtime. The points are those of the first file,
            then those of the next, each at the same settings. Empty: there is one program.
    """

    settings: tuple[Mapping[str, Any], ...]
    times: tuple[float, ...]
    seeds: tuple[int, ...]
    accuracy: NDArray[np.float64]
    agreement: NDArray[np.float64]
    reference: float
    images: int
    metric: str = "accuracy"
    wafer: Wafer | None = None
    files: Mapping[str, float] = field(default_factory=dict)

    def file_of(self, point: int) -> dict[str, str]:
        """``{"file": name}`` of a point's program; of one program nothing."""
        return {"file": list(self.files)[point * len(self.files) // len(self.settings)]} if self.files else {}

    def pooled(self) -> Population:
        """All files as one, without a map: at each setting the dice of the first file, then of the next; ``seeds`` repeat."""
        count = len(self.files)
        if not count:
            return self
        points = len(self.settings) // count
        accuracy, agreement = (
            np.concatenate(values.reshape(count, points, len(self.times), -1), axis=-1)
            for values in (self.accuracy, self.agreement)
        )
        settings, seeds = self.settings[:points], self.seeds * count
        return replace(self, settings=settings, seeds=seeds, accuracy=accuracy, agreement=agreement, wafer=None, files={})

    def _facts(self) -> dict[str, object]:
        pooled = self.pooled()
        first = Quantiles.of(pooled.accuracy[0, 0])
        where = None if pooled.accuracy.shape[:2] == (1, 1) else "the first setting and time"
        return {
            "files": len(self.files) or None, "dice": len(self.seeds), "images": self.images,
            "settings": len(pooled.settings), "times": len(self.times),
            f"median {self.metric}": first.median, "lowest": first.min, "highest": first.max, "of": where,
            "ONNX Runtime": self.reference,
        }  # fmt: skip

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = self.quantiles()
        return list(rows[0]), [list(row.values()) for row in rows]

    def quantiles(self) -> list[dict[str, Any]]:
        """A row for each file, setting and time: ``file`` of several, the settings, ``time_s``, and quantiles over dice."""
        return [
            {**self.file_of(p), **self.settings[p], "time_s": self.times[t], **vars(Quantiles.of(self.accuracy[p, t]))}
            for p in range(len(self.settings))
            for t in range(len(self.times))
        ]

    def table(self) -> list[dict[str, Any]]:
        """A row for each die at each setting and time; of several files each row has its ``file``."""
        return [
            {
                **self.file_of(p),
                **self.settings[p],
                "time_s": self.times[t],
                "seed": seed,
                **({} if self.wafer is None else self.wafer.placed(c)),
                self.metric: float(self.accuracy[p, t, c]),
                **({} if isnan(self.agreement[p, t, c]) else {"agreement": float(self.agreement[p, t, c])}),
            }
            for p in range(len(self.settings))
            for t in range(len(self.times))
            for c, seed in enumerate(self.seeds)
        ]

    def sensitivity(self, time: int = 0) -> dict[str, float | None]:
        """How far the median accuracy of a setting goes with each field: Spearman's rank correlation, -1 to 1.

        Args:
            time: Number of the time.

        Returns:
            By path of a field that is a number; None where it or the accuracy does not vary.

        Raises:
            CimcError: There is no such time.
        """
        within("time", time, 0, len(self.times), open_high=True, whole=True)
        if self.files:
            return self.pooled().sensitivity(time)
        medians = np.median(self.accuracy[:, time], axis=1)
        fields = {path: [row[path] for row in self.settings] for path in self.settings[0]}
        numbers = {path: values for path, values in fields.items() if all(isinstance(v, int | float) for v in values)}
        return {path: _rank_correlation(np.array(values, np.float64), medians) for path, values in numbers.items()}

    def over_wafer(self, point: int = 0, time: int = 0) -> dict[str, float | None]:
        """How far the figure of a die goes with its place and with its own fields: Spearman's rank correlation, -1 to 1.

        Args:
            point: Number of the setting.
            time: Number of the time.

        Returns:
            By ``x_mm``, ``y_mm``, ``radius_mm`` (from the middle of the wafer) and path of a field that is a number on each die;
            None where it or the figure does not vary. {}: there is no map.

        Raises:
            CimcError: There is no such setting or time.
        """
        for name, value, count in (("point", point, len(self.settings)), ("time", time, len(self.times))):
            within(name, value, 0, count, open_high=True, whole=True)
        columns = {} if self.wafer is None else self.wafer.columns()
        values = self.accuracy[point, time]
        return {name: _rank_correlation(np.array(column), values) for name, column in columns.items()}

    def yield_at(self, accuracy: float, point: int = 0, time: int = 0) -> Yield:
        """The share of dice that reach an accuracy (0 to 1), or a value of the metric; of ``mse`` and ``mae``, those at most it.

        The interval counts a seed once: over pooled files it is that of as many dice as there are seeds, which draw the same
        numbers in each file.

        Args:
            accuracy: That is to be reached.
            point: Number of the setting.
            time: Number of the time.

        Raises:
            CimcError: There is no such setting or time, or the accuracy is not from 0 to 1.
        """
        if self.metric in SHARES:
            within(self.metric, accuracy, 0, 1)
        for name, value, count in (("point", point, len(self.settings)), ("time", time, len(self.times))):
            within(name, value, 0, count, open_high=True, whole=True)
        values = self.accuracy[point, time]
        reached = values <= accuracy if self.metric in LOWER_IS_BETTER else values >= accuracy
        n, share, z = len(set(self.seeds)), float(reached.mean()), NormalDist().inv_cdf(0.975)
        centre, spread = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
        return Yield(float(accuracy), share, max(0.0, float(low)), min(1.0, float(high)), n)

    def to_frame(self) -> Any:
        """`table` as a pandas data frame.

        Raises:
            CimcError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise CimcError("pandas is not installed", where="to_frame", fix="pip install pandas, or use .table()") from error
        return pandas.DataFrame(self.table())

    def plot(self) -> Figure:
        """Box plots of the dice by setting, and the yield; over time and by field where there are several times and settings.

        Returns:
            A figure of matplotlib, one picture below the other: ``savefig`` writes it, a notebook shows it.

        Raises:
            CimcError: matplotlib is not installed.
        """
        return figure_of(pictures_of_population(self))

    def to_dict(self, yield_at: float | None = None) -> dict[str, Any]:
        """The JSON form; ``accuracy`` (or the metric) is that of the first setting and time, `sensitivity` of the first time.

        Of several files ``points`` has each file's, ``over_files`` those of `pooled`; ``accuracy`` is the first of the latter.
        """
        points, pooled = self._points(yield_at), self.pooled()
        over = pooled._points(yield_at) if self.files else []
        first = (over or points)[0]
        return {
            "metric": self.metric,
            self.metric: first[self.metric],
            "points": points,
            **({"files": dict(self.files), "over_files": over} if self.files else {}),
            "sensitivity": pooled.sensitivity() if len(pooled.settings) > 1 else {},
            "yield": first.get("yield"),
            "chips": len(self.seeds),
            "images": self.images,
            f"reference_{self.metric}": self.reference,
            **({} if self.wafer is None else {"wafer": {**self.wafer.to_dict(), "rank_correlation": self.over_wafer()}}),
        }

    def _points(self, yield_at: float | None) -> list[dict[str, Any]]:
        points = []
        for p, settings in enumerate(self.settings):
            for t, time_s in enumerate(self.times):
                values = self.accuracy[p, t]
                row = {**self.file_of(p), "settings": dict(settings), "time_s": time_s, self.metric: _accuracy(values)}
                if yield_at is not None:
                    row["yield"] = vars(self.yield_at(yield_at, p, t))
                points.append(row)
        return points

    def save(self, path: str | Path) -> None:
        """Write ``table`` as CSV, or all as JSON, by the ending of the name; Parquet with pandas and pyarrow installed.

        Raises:
            CimcError: Another ending, or what it needs is not installed.
            RunError: The file cannot be written.
        """
        kind = table_kind(path)
        if kind == ".csv":
            write_file(path, _csv(self.table()).encode())
        elif kind == ".json":
            write_file(path, (json.dumps(self.to_dict()) + "\n").encode())
        else:
            buffer = io.BytesIO()
            self.to_frame().to_parquet(buffer)
            write_file(path, buffer.getvalue())


def table_kind(path: str | Path) -> str:
    """The ending that says how a table is written.

    Raises:
        CimcError: Another ending, or what it needs is not installed.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".csv", ".json", ".parquet"):
        what = f"no table is written as {kind or 'a name without ending'}"
        raise CimcError(what, where=str(path), fix=".csv, .json or .parquet")
    missing = [name for name in ("pandas", "pyarrow") if kind == ".parquet" and find_spec(name) is None]
    if missing:
        raise CimcError(
            f"Parquet needs {' and '.join(missing)}", where=str(path), fix=f"pip install {' '.join(missing)}, or a .csv"
        )
    return kind


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's: Pearson's correlation of the ranks, equal values at the mean of theirs."""
    ranks = []
    for values in (one, other):
        _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[where])
    first, second = ranks
    return None if np.ptp(first) == 0 or np.ptp(second) == 0 else float(np.corrcoef(first, second)[0, 1])


def _accuracy(values: NDArray[np.float64]) -> dict[str, Any]:
    return {**vars(Quantiles.of(values)), "values": [float(value) for value in values]}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
