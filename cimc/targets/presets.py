"""Device presets: sections ``device`` that chips share, chosen by ``device: {preset: NAME}``.

A preset is a file of ``devices/``, or any target file by its path, of which the section ``device`` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cimc.errors import TargetError

DEVICES = Path(__file__).parent / "devices"
_SETTING = "device.preset"


def available_presets() -> dict[str, Path]:
    """File of each built-in preset, by name."""
    return {path.stem: path for path in sorted(DEVICES.glob("*.yaml"))}


def taken_out(document: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
    """A description without the choice of a preset, and that choice.

    Raises:
        TargetError: The choice is no text.
    """
    device = document.get("device")
    if not isinstance(device, Mapping) or "preset" not in device:
        return dict(document), None
    rest = {name: value for name, value in device.items() if name != "preset"}
    return {**document, "device": rest}, _name(device["preset"], where)


def setting_taken_out(
    settings: Mapping[str, Any] | Sequence[str],
) -> tuple[Mapping[str, Any] | Sequence[str], str | None]:
    """Settings without that of the preset, and its value; the last of two wins.

    Raises:
        TargetError: The value is no text.
    """
    if isinstance(settings, Mapping):
        rest, chosen = taken_out(settings, "--set")
        if _SETTING in rest:
            chosen = _name(rest.pop(_SETTING), "--set")
        return {name: value for name, value in rest.items() if name != "device" or value}, chosen
    texts = [settings] if isinstance(settings, str) else list(settings)
    own = [text for text in texts if text.partition("=")[0].strip() == _SETTING]
    others = [text for text in texts if text not in own]
    return others, _name(own[-1].partition("=")[2].strip(), "--set") if own else None


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        fix = f"one of: {', '.join(available_presets())}; or the path of a target file"
        raise TargetError(f"a preset is a name or a path, not {value!r}", where=f"{where}, {_SETTING}", fix=fix)
    return value
