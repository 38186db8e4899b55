"""How a device was fitted, as pictures: what was measured beside the fit, and the residuals."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from cimc.characterisation.result import DeviceFit
from cimc.report.pictures import Line, Picture
from cimc.targets.load import load_target

#: Most residuals of a picture: quantiles stand for more.
_POINTS = 200


def pictures_of_fit(fit: DeviceFit) -> list[Picture]:
    """The programming error at the measured goals with its intervals, and the residuals of each effect against a normal error."""
    found = []
    measured = {
        what: [
            (float(name.split()[3]), one)
            for name, one in fit.intervals.items()
            if name.startswith("programming error") and name.endswith(what)
        ]
        for what in ("mean", "deviation")
    }
    if measured["mean"]:
        section = load_target("ideal", fit.figures).device.programming
        for what, points in measured.items():
            goals = np.array([at for at, _ in points])
            value, low, high = (np.array([getattr(one, name) for _, one in points]) for name in ("value", "low", "high"))
            fine = np.linspace(goals.min(), goals.max(), 65)
            curve = section.error_us(fine)[what == "deviation"]
            lines = [Line("measured, 95 % interval", goals, value, low, high, points=True), Line("fit", fine, curve)]
            found.append(
                Picture(f"Programming error, {what}", "goal, µS", "µS", lines, f"{fit.effects['programming error'].form}.")
            )
    for name, residuals in fit.residuals.items():
        shares = (np.arange(min(residuals.size, _POINTS)) + 0.5) / min(residuals.size, _POINTS)
        expected = np.array([NormalDist().inv_cdf(share) for share in shares])
        lines = [
            Line("residuals", expected, np.quantile(residuals, shares), points=True),
            Line("as the form says", expected, expected),
        ]
        about = f"Quantiles of the standardised residuals of {residuals.size} records; points on the line: the form is right."
        found.append(Picture(f"Residuals: {name}", "normal quantile", "residual", lines, about))
    return found
