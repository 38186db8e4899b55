"""The inverse question: how far may a field go until too few dice reach an accuracy, or a value of another metric?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from cimc.arguments import within
from cimc.compiler import Model
from cimc.errors import CimcError
from cimc.ir.program import Program
from cimc.population.result import Yield
from cimc.population.study import sweep
from cimc.report.metrics import LOWER_IS_BETTER, SHARES, check_scalar

#: Bisections at most, and the share of the span at which a real-valued search ends.
_STEPS, _FINE = 24, 0.01


@dataclass(frozen=True)
class Limit:
    """Where the yield falls below what is asked for.

    Attributes:
        path: The field.
        good: The last value at which the share of dice is at least what is asked for.
        bad: The next value that was tried, at which it is not; None: every value up to the end does.
        sure: The last value at which the yield is that high with 97.5 % confidence; None: with so many dice at none.
        tried: Every value that was tried, with its yield, from good to bad.
    """

    path: str
    good: float
    bad: float | None
    sure: float | None
    tried: tuple[tuple[float, Yield], ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        rows = [{"value": value, **vars(found)} for value, found in self.tried]
        return {"path": self.path, "good": self.good, "bad": self.bad, "sure": self.sure, "tried": rows}


def limit_of(
    model_or_program: Model | Program,
    x: Any,
    y: Any,
    path: str,
    good: float,
    bad: float,
    *,
    accuracy: float,
    at_least: float,
    chips: int = 50,
    metric: str = "accuracy",
    told: Callable[[float, Yield], None] = lambda value, found: None,
    **options: Any,
) -> Limit:
    """The last value of a field, from ``good`` towards ``bad``, at which enough dice reach an accuracy, or a value of a metric.

    The dice are the same at each value, so their draws do not blur the comparison; the yield is taken to fall from ``good`` to
    ``bad``. Whole ends are searched in whole numbers, others to a hundredth of their distance.

    Args:
        model_or_program: As `cimc.sweep`.
        x: Images.
        y: Class numbers; targets where the metric is of a regression.
        path: Dotted path of a target's field.
        good: Where the search begins.
        bad: Where it ends.
        accuracy: That a die has to reach, 0 to 1; of another ``metric`` its value: at most this of ``mse`` and ``mae``, at least
            this of others.
        at_least: Share of dice that have to, 0 to 1.
        chips: Dice at each value. If all are good, 35 dice are enough to be sure of a share
            of 0.9, and 381 of one of 0.99.
        metric: The figure of a die, as `evaluate` has it.
        told: Told each value and its yield.
        options: As `cimc.sweep`.

    Raises:
        CimcError: An option is out of range, there is no such metric, or the yield is too low at ``good`` already.
        DataError: Images or labels do not suit the model.
    """
    check_scalar(metric)
    within(metric, accuracy, *((0, 1) if metric in SHARES else (-1e30, 1e30)))
    within("at_least", at_least, 0, 1)
    if not (isfinite(good) and isfinite(bad)) or good == bad:
        raise CimcError(f"{good} to {bad} is no span", where="limit", fix="give the value that is surely good, then the bad one")
    whole = isinstance(good, int) and isinstance(bad, int)
    found: dict[float, Yield] = {}

    def meets(value: float) -> bool:
        population = sweep(model_or_program, x, y, {path: [value]}, chips=chips, metric=metric, **options)
        found[value] = population.yield_at(accuracy)
        told(value, found[value])
        return found[value].share >= at_least

    if not meets(good):
        share = found[good].share
        raise CimcError(
            f"at {path}={good:g} only {100 * share:.3g} % of the dice reach {goal_of(metric, accuracy)}",
            where="limit",
            fix=f"a better start, a {'higher' if metric in LOWER_IS_BETTER else 'lower'} --accuracy, or a lower --at-least",
        )
    low, high = good, bad
    if meets(bad):
        return _limit(path, bad, None, at_least, found, rising=bad > good)
    for _ in range(_STEPS):
        if abs(high - low) <= (1 if whole else _FINE * abs(bad - good)):
            break
        middle = (low + high) // 2 if whole else (low + high) / 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return _limit(path, low, high, at_least, found, rising=bad > good)


def goal_of(metric: str, value: float) -> str:
    """What a die has to reach, in words."""
    return f"{'a' if metric == 'top5' else 'an'} {metric} of {value:g} or {'less' if metric in LOWER_IS_BETTER else 'more'}"


def _limit(path: str, good: float, bad: float | None, at_least: float, found: Mapping[float, Yield], *, rising: bool) -> Limit:
    tried = tuple(sorted(found.items(), reverse=not rising))
    sure = None
    for value, own in tried:
        if own.low < at_least:
            break
        sure = value
    return Limit(path, good, bad, sure, tried)
