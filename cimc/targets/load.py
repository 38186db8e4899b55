"""Find a target by name, entry point or file, and make the checked description of it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cimc.arguments import checked
from cimc.errors import TargetError
from cimc.targets.build import build
from cimc.targets.description import Target, figures_of
from cimc.targets.figures import Figure, Figures, flatten, laid_over, of_kind
from cimc.targets.presets import available_presets, setting_taken_out, taken_out
from cimc.targets.settings import parse_settings
from cimc.targets.stated import remembered
from cimc.targets.yaml_file import Lines, read_yaml

CHIPS = Path(__file__).parent / "chips"
GROUP = "cimc.targets"

#: What an ``extends`` does not hand down: a changed chip is another chip.
_OWN = ("name", "description")


@checked()
def load_target(ref: str | Path | Target, settings: Mapping[str, Any] | Sequence[str] | None = None) -> Target:
    """The description of a chip.

    Args:
        ref: A built-in name, the name of an entry point of group ``cimc.targets``, a path to a YAML file (a text with a
            slash or ending in .yaml), or a description.
        settings: Changes on top: ``["array.rows=128"]`` or ``{"array.rows": 128}``.

    Raises:
        TargetError: No such chip, a description that is wrong, or a wrong setting.
    """
    origin = f"target {ref.name}" if isinstance(ref, Target) else str(ref)
    return build(load_figures(ref, settings), origin)


def load_figures(ref: str | Path | Target, settings: Mapping[str, Any] | Sequence[str] | None = None) -> Figures:
    """The figures that a chip states, as `load_target` takes them; none that are left to their defaults.

    Raises:
        TargetError: As there, as far as figures are not checked.
    """
    rest, preset = setting_taken_out(settings or {})
    new = parse_settings(rest)
    figures = _figures(ref, Path(), ())
    if preset is not None:
        figures = _with_device(figures, preset, Path(), ("--set",))
    return remembered(laid_over(of_kind(figures, new), new), new)


def available_targets() -> dict[str, str]:
    """Name -> where it comes from: "built in", or the package whose entry point it is. Built-in names come first."""
    names = dict.fromkeys(sorted(path.stem for path in CHIPS.glob("*.yaml")), "built in")
    for point in metadata.entry_points(group=GROUP):
        names.setdefault(point.name, point.dist.name if point.dist else point.value)
    return names


def files_of(path: Path) -> list[Path]:
    """A target's YAML file and the files that it extends, up to the first that cannot be read: loading the target says why."""
    found: list[Path] = []
    while path.resolve() not in found:
        try:
            document, _ = read_yaml(path)
        except TargetError:
            break
        found.append(path.resolve())
        device = document.get("device")
        preset = device.get("preset") if isinstance(device, Mapping) else None
        if isinstance(preset, str) and _is_path(preset):
            found += [file for file in files_of(path.parent / Path(preset).expanduser()) if file not in found]
        base = document.get("extends")
        if not (isinstance(base, str) and _is_path(base)):
            break
        path = path.parent / Path(base).expanduser()
    return found


def _figures(ref: Any, folder: Path, chain: tuple[str, ...]) -> Figures:
    """Figures of a reference, those of what it extends below its own."""
    if isinstance(ref, Target):
        origin, all_figures = f"target {ref.name}", figures_of(ref)
        own = flatten(ref.model_dump(), origin)
        # A younger field is not dumped at its default; where a source says that it was stated, it still is.
        stated = {path: source for path, source in ref.sources.items() if path in all_figures and path not in own}
        own |= {path: Figure(all_figures[path], source, origin) for path, source in stated.items()}
        return remembered(own, own)
    if isinstance(ref, Path) or (isinstance(ref, str) and _is_path(ref)):
        path = folder / Path(ref).expanduser()
        if chain and not os.path.isfile(path):
            raise TargetError(f"there is no file {str(ref)!r} beside it", where=f"{chain[-1]}, extends")
        document, lines = read_yaml(path)
        return _extended(document, str(path), lines, path.stem, path.parent, (*chain, str(path.resolve())))
    if not isinstance(ref, str):
        raise TargetError(f"a target is a name, a path or a description, not {ref!r}", where=chain[-1] if chain else None)
    builtin = CHIPS / f"{ref}.yaml"
    if os.path.isfile(builtin):
        return _builtin(builtin)
    found = _entry_point(ref, chain)
    if isinstance(found, Mapping):
        return _extended(found, f"entry point {ref}", None, ref, Path(), (*chain, f"entry point {ref}"))
    return _figures(found if isinstance(found, Target) else Path(found), Path(), chain)


@cache
def _builtin(path: Path) -> Figures:
    """A chip of the package, read once: reading takes longer than to compile a small model."""
    return _figures(path, Path(), ())


def _is_path(ref: str) -> bool:
    return "/" in ref or os.sep in ref or ref.endswith((".yaml", ".yml"))


def _extended(
    document: Mapping[str, Any], origin: str, lines: Lines | None, name: str, folder: Path, chain: tuple[str, ...]
) -> Figures:
    if chain[-1] in chain[:-1]:
        raise TargetError(f"extends itself: {' -> '.join(chain)}", where=origin, fix="take one `extends` out")
    own, preset = taken_out({key: value for key, value in document.items() if key != "extends"}, origin)
    base: Figures = {}
    if "extends" in document:
        base = _figures(document["extends"], folder, chain)
    if preset is not None:
        base = _with_device(base, preset, folder, chain)
    inherited = {path: figure for path, figure in base.items() if path not in _OWN}
    new = flatten(own, origin, lines)
    return remembered(laid_over({"name": Figure(name, None, origin)} | of_kind(inherited, new), new), new)


def _with_device(base: Figures, preset: str, folder: Path, chain: tuple[str, ...]) -> Figures:
    """A chip whose device is that of a preset: nothing of its own device stays.

    Raises:
        TargetError: There is no such preset.
    """
    presets = available_presets()
    if not _is_path(preset) and preset not in presets:
        near = difflib.get_close_matches(preset, presets, n=3) or presets
        where, fix = f"{chain[-1]}, device.preset", f"{', '.join(near)}; or the path of a target file"
        raise TargetError(f"there is no preset {preset!r}", where=where, fix=fix)
    figures = _figures(preset, folder, chain) if _is_path(preset) else _builtin(presets[preset])
    device = {path: figure for path, figure in figures.items() if path.startswith("device.")}
    return {path: figure for path, figure in base.items() if not path.startswith("device.")} | device


def _entry_point(name: str, chain: tuple[str, ...]) -> Any:
    where = f"{chain[-1]}, extends" if chain else f"target {name}"
    for point in metadata.entry_points(group=GROUP):
        if point.name != name:
            continue
        try:
            found = point.load()
            found = found() if callable(found) else found
        except Exception as error:  # whatever a third party's code raises is reported as its fault
            raise TargetError(f"the entry point {point.value} failed: {type(error).__name__}: {error}", where=where) from error
        if isinstance(found, Target | Mapping | str | Path):
            return found
        raise TargetError(f"the entry point {point.value} gives neither a path, a mapping nor a Target", where=where)
    known = available_targets()
    near = difflib.get_close_matches(name, known, n=3)
    file = next((f for f in (f"{name}.yaml", f"{name}.yml", name) if os.path.isfile(f)), None)
    fix = f"./{file} for the file" if file else f"{' or '.join(near)}?" if near else f"one of {', '.join(known)}"
    raise TargetError(f"there is no target {name!r}", where=where, fix=fix)
