"""The search: the closed form proposes, simulated dice decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cimc.errors import CimcError, RunError
from cimc.ir.program import Program
from cimc.passes.base import Compilation
from cimc.targets.description import Target
from cimc.tuning.bench import Bench, Images
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Cost, Limits
from cimc.tuning.moves import Expected
from cimc.tuning.trace import TraceFile, Trial

#: A rung of the search takes off this part of the output's expected error (1.5 dB) before the next simulation.
_RUNG = 10**-0.15
_RUNGS = 16

Told = Callable[[Trial], None]


@dataclass
class Search:
    """A search on one bench.

    Args:
        bench: Compiles and measures.
        images: To choose by.
        seeds: Dice to choose by.
        goal_points: Percentage points that may be lost.
        limits: What may be spent.
        trace: Takes every trial, and gives those of a search before.
        until: Monotonic time at which no further trial begins.
        told: Told after each trial.
    """

    bench: Bench
    images: Images
    seeds: Sequence[int]
    goal_points: float
    limits: Limits
    trace: TraceFile
    until: float
    told: Told
    trials: list[Trial] = field(default_factory=list)
    base: Cost | None = None
    """Cost of the defaults."""
    stopped: str = ""
    """Why the search ended."""

    def run(self, train: Callable[[Candidate, Compilation], int] | None) -> Trial:
        """The best trial: within the goal the one of least cost that was met first, else the one that loses least.

        Args:
            train: Trains the model for the compiled candidate and returns the epochs; None: no training.
        """
        best = self._free(Candidate())
        if not self._met(best) and train is not None and self._time():
            # Repeats may still be needed, but a network that has learnt to bear errors needs fewer.
            epochs = train(best.candidate, self.bench.compiled(best.candidate))
            best = self._better(best, self.trial(replace(best.candidate, tuned_epochs=epochs), "noise-aware training"))
        if not self._met(best):
            best = self._climb(best)
        self.stopped = self.stopped or ("the goal is met" if self._met(best) else "nothing else helps")
        return best

    def trial(self, candidate: Candidate, what: str) -> Trial:
        """Compile and measure a candidate, or take what an earlier search found.

        Raises:
            CimcError: It does not compile.
        """
        known = self.trace.known.get(candidate.key)
        if known is None or (candidate.tuned_epochs and candidate.tuned_epochs not in self.bench.trained):
            known = self._tried(candidate, self.bench.compiled(candidate).need_program(), what)
        else:  # the budget may be another one now
            self.base = self.base or known.cost
            known = replace(known, within=self.limits.allows(known.cost, self.base))
        self.trials.append(known)
        self.told(known)
        return known

    def _tried(self, candidate: Candidate, program: Program, what: str) -> Trial:
        cost = self.bench.cost(program)
        self.base = self.base or cost
        outputs = program.expected.outputs if program.expected is not None else ()
        measured = self.bench.measured(program, self.images, self.seeds, fitted=candidate.fitted)
        expected = outputs[0].sqnr_db if outputs else None
        found = Trial(what, candidate, measured, cost, expected, self.limits.allows(cost, self.base))
        self.trace.add(found)
        return found

    def _free(self, start: Candidate) -> Trial:
        """The best of what costs nothing on the chip: scales, and outputs fitted on each die."""
        best = self.trial(start, "the defaults")
        for what, candidate in _free_candidates(start, self.bench.target):
            if self._met(best) or not self._time():
                return best
            tried = {**best.candidate.settings, **candidate.settings}
            wanted = replace(best.candidate, settings=tried, fitted=best.candidate.fitted or candidate.fitted)
            best = self._better(best, self.trial(wanted, what))
        return best

    def _climb(self, best: Trial) -> Trial:
        """Spend, rung by rung, what brings most for its price."""
        try:
            expected = Expected(self.bench.compiled(best.candidate), best.candidate)
        except RunError as error:
            self.stopped = f"no layer's part of the error is known: {error.what}"
            return best
        dead: set[tuple[str, str]] = set()
        for _ in range(_RUNGS):
            if not self._time():
                return best
            made = self._rung(expected, dead)
            if not made:
                return best
            best = self._better(best, self.trial(expected.candidate, "; ".join(made)))
            if self._met(best):
                return best
        return best

    def _rung(self, expected: Expected, dead: set[tuple[str, str]]) -> list[str]:
        """Moves until the expected error has fallen by a rung; empty: no move is left within the budget."""
        wanted, made = expected.total * _RUNG, list[str]()
        digital = self.limits.digital > 0
        while expected.total > wanted:
            move = expected.best(digital=digital, dead=dead)
            if move is None:
                break
            if not self._affordable(move.after):
                dead.add((move.layer, move.kind))
                continue
            expected.take(move)
            made.append(move.what)
        return made

    def _affordable(self, candidate: Candidate) -> bool:
        assert self.base is not None
        if self.limits == Limits(digital=self.limits.digital) and not candidate.digital:
            return True
        try:
            program = self.bench.compiled(candidate).need_program()
        except CimcError:
            return False
        return self.limits.allows(self.bench.cost(program), self.base)

    def _met(self, trial: Trial) -> bool:
        """Within the goal by a standard error: the best of several trials owes a part of its figure to luck."""
        return trial.within and trial.measured.lost_points + trial.measured.error_points <= self.goal_points

    def _time(self) -> bool:
        if time.monotonic() < self.until:
            return True
        self.stopped = "the time is up"
        return False

    def _better(self, one: Trial, other: Trial) -> Trial:
        """The one that loses less, of those within the budget."""
        if other.within != one.within:
            return other if other.within else one
        return other if other.measured.lost_points < one.measured.lost_points else one


def _free_candidates(start: Candidate, target: Target) -> Iterator[tuple[str, Candidate]]:
    """What costs neither arrays, time nor energy, each as a change of the best so far."""
    settings = {"weights.window": "least_error", "weights.scale": "column"}
    if target.dac.bits is not None and not target.dac.clip_share:
        settings["dac.full_scale"] = "least_error"
    now = {
        "weights.window": target.weights.window,
        "weights.scale": target.weights.scale,
        "dac.full_scale": target.dac.full_scale,
    }
    changed = {path: value for path, value in settings.items() if now[path] != value}
    if changed:
        yield "scales of least error", replace(start, settings=changed)
    yield "outputs fitted on each die", replace(start, fitted=True)
