"""The programmer that a target names."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from cimc.errors import TargetError
from cimc.runtime.programmers.blind_pulses import BlindPulses
from cimc.runtime.programmers.direct import Direct
from cimc.runtime.programmers.interface import Programmer
from cimc.runtime.programmers.write_verify import WriteVerify
from cimc.targets.description import Target
from cimc.targets.kinds import model_class, section_class

_PROGRAMMERS: dict[str, Any] = {"direct": Direct, "write_verify": WriteVerify, "blind_pulses": BlindPulses}


def programmer(target: Target, kind: str | None = None) -> Programmer:
    """The programmer of a target.

    Args:
        target: The chip.
        kind: One by name, with the fields of ``programmer`` where that is its section, else with their defaults; None: that of
            the target.

    Raises:
        TargetError: No such programmer is built in, registered or installed, or the target lacks figures that it needs.
    """
    section: Any = target.chosen_programmer
    if kind not in (None, section.kind):
        try:
            section = section_class("programmer", kind)()
        except ValidationError as error:
            what = f"programmer {kind} has fields without a default: {', '.join(str(e['loc'][0]) for e in error.errors())}"
            raise TargetError(what, where=f"target {target.name}", fix=f"--set programmer.kind={kind}, and its fields") from error
    made: Programmer = (_PROGRAMMERS.get(section.kind) or model_class("programmer", section.kind))(section, target)
    return made
