"""Spread between dice: a field whose value all devices of a die share, drawn anew for each die."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from cimc.arguments import within
from cimc.errors import CimcError
from cimc.population.wafer import Wafer
from cimc.runtime import rng
from cimc.targets.description import Target, figures_of

_WHERE, _FIX = "between_dice", 'give {"device.programming.mean_us": 0.5}, or {"device.programming.sigma_us": "10%"}'


def spread_between(dice: Wafer, spreads: Mapping[str, float | str], target: Target) -> Wafer:
    """The dice, each with own values of these fields: ``value + sigma * n``, or ``value * (1 + sigma * n)`` and not below 0.

    n is standard normal, of the seed of the die and the path: a die has the same one in every study. The value is that of the map
    where it states the field, else the target's.

    Args:
        dice: A map, or seeds alone.
        spreads: Standard deviation by dotted path: a number in the unit of the field, or in parts of its value, ``"10%"``.
        target: Of the program.

    Raises:
        CimcError: A deviation is none, or a field is no number of the target.
    """
    figures = figures_of(target)
    sigmas = {path: _sigma(path, text) for path, text in spreads.items()}
    settings: list[dict[str, Any]] = []
    for number, seed in enumerate(dice.seeds):
        own = dict(dice.of(number))
        for path, (sigma, relative) in sigmas.items():
            value = own.get(path, figures.get(path))
            if not isinstance(value, float) and (not isinstance(value, int) or isinstance(value, bool)):
                raise CimcError(f"{path} is no number of this target", where=_WHERE, fix="a field that the program states")
            shift = sigma * normal_of_die(seed, path)
            own[path] = max(0.0, value * (1 + shift)) if relative else value + shift
        settings.append(own)
    return Wafer(dice.seeds, dice.x_mm, dice.y_mm, tuple(settings))


def normal_of_die(seed: int, path: str) -> float:
    """The standard normal draw of a die for a field."""
    share = ((rng.key("between dice", seed, path) >> 11) + 0.5) / 2**53
    return NormalDist().inv_cdf(min(share, 1 - 2**-53))


def parse_spreads(texts: Sequence[str]) -> dict[str, float | str]:
    """``["device.programming.sigma_us=10%"]`` as deviations by path.

    Raises:
        CimcError: Not of that form, or a path twice.
    """
    found: dict[str, float | str] = {}
    for text in texts:
        path, equals, sigma = text.partition("=")
        if not equals or not path or path in found:
            raise CimcError(f"--between-dice {text} is not PATH=SIGMA", fix="device.programming.mean_us=0.5, or ...sigma_us=10%")
        found[path] = sigma
        _sigma(path, sigma)
    return found


def _sigma(path: str, given: float | str) -> tuple[float, bool]:
    """The deviation, and whether it is in parts of the value."""
    relative = isinstance(given, str) and given.strip().endswith("%")
    try:
        sigma = float(given.strip().removesuffix("%")) if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        raise CimcError(f"{given!r} is no deviation of {path}", where=_WHERE, fix=_FIX) from None
    sigma = sigma / 100 if relative else sigma
    within(f"between_dice, {path}", sigma, 0, 1e9)
    return sigma, relative
