"""Settings of target and trainer that a training cannot use: refused, or named in a note where another setting decides."""

from __future__ import annotations

from cimc.errors import CimcError, TargetError
from cimc.targets.description import Target
from cimc.training.rules.rule import Rule
from cimc.training.window import Window


def check_limit(target: Target, update: str | None, limit: float | None) -> None:
    """See that only residual updates are given a limit.

    Args:
        target: Its ``update.rule`` is the rule where ``update`` is None.
        update: Name of the rule.
        limit: As an option gave it.

    Raises:
        CimcError: Another rule is given one.
    """
    name = target.update.rule if update is None else update
    if limit is not None and name != "residual":
        raise CimcError(f"{name} updates take no limit: it is of residual updates", fix="leave limit out, or update='residual'")


def check_settings(target: Target, rule: Rule, window: Window, threshold: float | None, kept: bool, backward: str) -> list[str]:
    """See that no setting is ignored in silence.

    Args:
        target: The chip.
        rule: Of the updates.
        window: Which weight is to span the window.
        threshold: Of the update rule, as an option gave it.
        kept: The chip goes on from a training, with the scale that it has.
        backward: ``digital`` or ``analog``.

    Returns:
        Notes on fields of the target that another setting overrules, or that a part of the training does without.

    Raises:
        TargetError: The ideal target has no window that a setting could be a part of.
        CimcError: A trained chip is given another window.
    """
    update = target.update
    options = {"window": window.he, "w_max": window.w_max, "threshold": threshold}
    given = [name for name, value in options.items() if value is not None]
    if target.is_ideal:
        fields = {"update.window_he": update.window_he, "update.threshold_share": update.threshold_share}
        if wrong := [*given, *(name for name, value in fields.items() if value is not None)]:
            raise TargetError(
                f"the ideal target has no conductance window, and {wrong[0]} is a part of it",
                where=f"target {target.name}",
                fix=f"leave {wrong[0]} out, or train for a chip with a window",
            )
    if kept and (wrong := [name for name in given if name != "threshold"]):
        raise CimcError(
            f"the chip goes on with the weight scale that it was trained with, so {wrong[0]} has no effect",
            fix=f"leave {wrong[0]} out, or give init='weights', which programs the chip anew",
        )
    name = type(rule).__name__.lower()
    pulsed = rule.takes == "vectors"
    counted = target.device.endurance_writes is not None and target.device.endurance_unit == "pulses"
    chosen = target.chosen_programmer
    if counted and not pulsed and name != "residual" and not chosen.counts_pulses:
        raise TargetError(
            f"its endurance counts pulses, and a direct write (programmer {chosen.kind}) has no number of pulses",
            where=f"target {target.name}, device.endurance_unit",
            fix="--set update.programming=write_verify, or --set device.endurance_unit=writes",
        )
    notes = []
    scale = "w_max" if window.w_max is not None else "window" if window.he is not None else "update.window_he"
    spanned = scale in given or update.window_he is not None
    if target.weights.clip_sigma is not None and spanned and not kept:
        where = "" if scale == "w_max" else " where that is wider"
        notes.append(
            f"weights.clip_sigma {target.weights.clip_sigma:g} is not used{where}: {scale} says which weight spans the window"
        )
    if name != "residual" and update.limit_share is not None:
        notes.append(f"update.limit_share {update.limit_share:g} is not used: {name} updates have no limit of pulses")
    if pulsed and update.threshold_share is not None:
        notes.append(f"update.threshold_share {update.threshold_share:g} is not used: {update.rule} updates have no threshold")
    if name == "naive" and update.threshold_share is not None:
        notes.append(f"update.threshold_share {update.threshold_share:g} is not used: naive updates have no threshold")
    if name == "residual" and chosen.kind != "direct":
        setting = "update.programming" if target.programmer is None else "programmer.kind"
        notes.append(f"{setting} {chosen.kind} is not used: residual updates are blind pulses")
    return notes + _left_out(target, backward)


def _left_out(target: Target, backward: str) -> list[str]:
    """Effects of the target that a part of the training does without."""
    notes = []
    if target.device.drift is not None:
        notes.append("device.drift: no time passes in training; devices drift in chip.advance only")
    if backward == "analog" and target.device.slow_noise is not None:
        notes.append("device.slow_noise is in forward reads only: the analog backward pass sees its mean")
    if backward == "analog" and target.adc.deviates:
        notes.append("adc.gain_sigma, adc.offset_sigma_lsb and adc.bow_sigma_lsb are in forward reads only: word lines of the "
                     "analog backward pass convert alike")  # fmt: skip
    return notes
