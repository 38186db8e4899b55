"""What a search tried, in order; a file of it lets a later search go on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cimc.errors import ArtifactError
from cimc.journal import Journal
from cimc.tuning.bench import Measured
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Cost


@dataclass(frozen=True)
class Trial:
    """One candidate that was simulated."""

    what: str
    """What was tried, in words."""
    candidate: Candidate
    measured: Measured
    cost: Cost
    expected_db: float | None
    """SQNR that the forecast expects of the first output."""
    within: bool
    """Whether the budget allows it."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "what": self.what,
            "candidate": self.candidate.to_dict(),
            **self.measured.to_dict(),
            "cost": self.cost.to_dict(),
            "expected_db": self.expected_db,
            "within_budget": self.within,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """From the JSON form; KeyError, TypeError or ValueError where it is none."""
        accuracies, images = tuple(map(float, record["accuracies"])), int(record["images"])
        if not accuracies or images < 1:
            raise ValueError("a trial of no die or no image")
        measured = Measured(accuracies, float(record["agreement"]), float(record["reference"]), images)
        expected = record["expected_db"]
        return cls(
            str(record["what"]), Candidate.of(record["candidate"]), measured, Cost(**record["cost"]),
            None if expected is None else float(expected), bool(record["within_budget"]),
        )  # fmt: skip


class TraceFile:
    """The trials of a search, kept in a file as each ends.

    Args:
        path: None: nothing is kept.
        about: Model, target, data and options, in JSON; trials of anything else are not taken up.
        resume: Take up what the file holds; otherwise it is begun anew.

    Attributes:
        known: Trials by the key of their candidate.

    Raises:
        ArtifactError: The file is not of this search, or damaged.
        RunError: It cannot be written.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], *, resume: bool) -> None:
        self._journal = Journal(path, about, "--trace", resume=resume)
        try:
            trials = [Trial.of(record) for record in self._journal.records]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError("a record is no trial", where=str(path), fix="leave --resume out") from error
        self.known = {trial.candidate.key: trial for trial in trials}

    def add(self, trial: Trial) -> None:
        """Keep a trial: a search that is killed loses none that ended."""
        self.known[trial.candidate.key] = trial
        self._journal.add(trial.to_dict())


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats in accuracy and in every cost, the least lossy first."""

    def figures(trial: Trial) -> tuple[float, ...]:
        cost = trial.cost
        return trial.measured.lost_points, cost.arrays, cost.latency, cost.energy, cost.digital_share

    def beaten(one: Trial, other: Trial) -> bool:
        a, b = figures(one), figures(other)
        return all(y <= x for x, y in zip(a, b, strict=True)) and a != b

    kept = [one for one in trials if not any(beaten(one, other) for other in trials)]
    distinct = {figures(one): one for one in reversed(kept)}
    return sorted(distinct.values(), key=figures)
