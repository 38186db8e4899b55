"""A layer's devices as arrays of a saved chip, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.ir.encoding import Coefficients
from cimc.ir.program import Layer, Program
from cimc.runtime.arrays.compensation import Factors
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import Sites
from cimc.runtime.crossbar import Crossbar

#: Parts of a layer's saved devices. The first copy stands by itself, so that a chip without copies reads as it always did.
_PARTS = (
    "g_us",
    "unit_g_us",
    "copies_g_us",
    "copies_unit_g_us",
    "alpha",
    "unit_alpha",
    "sites",
    "lines",
    "drift_factor",
    "drift_unit_factor",
)

#: Those that a layer of a chip has at some times only.
DRIFT_PARTS = ("drift_factor", "drift_unit_factor")

#: Before the names of what a device model keeps beside conductances.
_KEPT = ("device.", "unit_device.", "copies_device.", "copies_unit_device.")


def is_device_state(part: str) -> bool:
    """Whether a part of a layer's state is its devices'."""
    return part in _PARTS or part.startswith(_KEPT)


def device_state(crossbar: Crossbar, program: Program) -> dict[str, NDArray[Any]]:
    """What the last writes left in a layer's devices, by part; and which cells they are, where the program does not say."""
    first, *others = crossbar.held
    state: dict[str, NDArray[Any]] = {"g_us": first.g_us}
    if others:
        state["copies_g_us"] = np.stack([copy.g_us for copy in others])
    if first.unit_g_us.size:
        state["unit_g_us"] = first.unit_g_us
        if others:
            state["copies_unit_g_us"] = np.stack([copy.unit_g_us for copy in others])
    for name in first.arrays:
        state[f"device.{name}"] = first.arrays[name]
        if others:
            state[f"copies_device.{name}"] = np.stack([copy.arrays[name] for copy in others])
    for name in first.unit_arrays if first.unit_g_us.size else ():
        state[f"unit_device.{name}"] = first.unit_arrays[name]
        if others:
            state[f"copies_unit_device.{name}"] = np.stack([copy.unit_arrays[name] for copy in others])
    if crossbar.factors:
        state["drift_factor"] = np.stack([factors.columns for factors in crossbar.factors])
        if first.unit_g_us.size:
            state["drift_unit_factor"] = np.stack([factors.units for factors in crossbar.factors])
    if crossbar.target.adc.flipped:  # which columns are stored complemented is nothing that the weights of a read-back tell
        state["alpha"] = first.coefficients.alpha
        if first.coefficients.unit is not None:
            state["unit_alpha"] = first.coefficients.unit
    sites = crossbar.cells_of().sites
    if sites is not None and f"blocks/{crossbar.layer.name}" not in program.tensors:
        state |= {"sites": sites.table} if sites.lines is None else {"sites": sites.table, "lines": sites.lines}
    return state


def saved_sites(program: Program, layer: Layer) -> Sites | None:
    """Where a saved chip says that a layer's cells are; None where it does not.

    Raises:
        ArtifactError: They do not suit the layer.
    """
    table, lines = (program.tensors.get(f"state/{layer.name}/{part}") for part in ("sites", "lines"))
    if table is None:
        return None
    if any(array is not None and array.dtype != np.int32 for array in (table, lines)):
        raise ArtifactError("its places are no numbers of 32 bits", where=f"layer {layer.name}")
    return Sites(table, lines).checked(layer, program.target)


def take_devices(name: str, crossbar: Crossbar, state: Mapping[str, NDArray[Any]]) -> None:
    """Let a layer hold what `device_state` gave, in as many copies.

    Raises:
        ArtifactError: An array is missing, or not of the shape and type of the layer's devices.
    """
    held, factors = saved_devices(name, crossbar, state)
    crossbar.hold(held)
    crossbar.factors = factors


def saved_devices(name: str, crossbar: Crossbar, state: Mapping[str, NDArray[Any]]) -> tuple[list[Devices], tuple[Factors, ...]]:
    """What `device_state` gave: the devices of all copies, and their factors against drift. The layer stays as it is.

    Raises:
        ArtifactError: An array is missing, or not of the shape and type of the layer's devices.
    """
    made = crossbar.held[0]
    c = made.coefficients

    def part(key: str, like: NDArray[Any] | None, copies: int | None = None) -> NDArray[Any]:
        shape = (() if like is None else like.shape) if copies is None else (copies, *(() if like is None else like.shape))
        array = state.get(key)
        if like is None or array is None or array.shape != shape or array.dtype != like.dtype:
            given = "none" if array is None else f"{array.dtype}{list(array.shape)}"
            wanted = "none" if like is None else f"{like.dtype}{list(shape)}"
            raise ArtifactError(f"saved devices do not suit the layer: {key} is {given}, not {wanted}", where=f"layer {name}")
        return np.array(array)

    unit_g_us = part("unit_g_us", made.unit_g_us) if "unit_g_us" in state else made.unit_g_us
    if "alpha" in state:
        unit = part("unit_alpha", c.unit) if c.unit is not None or "unit_alpha" in state else None
        c = Coefficients(part("alpha", c.alpha), unit, c.weight_step)
    arrays = {name: part(f"device.{name}", like) for name, like in made.arrays.items()}
    own_units = made.unit_arrays if made.unit_g_us.size else {}
    unit_arrays = {name: part(f"unit_device.{name}", like) for name, like in own_units.items()}
    held = [Devices(part("g_us", made.g_us), unit_g_us, c, arrays, unit_arrays)]
    if "copies_g_us" in state:
        copies = len(state["copies_g_us"]) if state["copies_g_us"].ndim else 0
        g_us = part("copies_g_us", made.g_us, copies)
        units = part("copies_unit_g_us", made.unit_g_us, copies) if made.unit_g_us.size else [made.unit_g_us] * copies
        more = {name: part(f"copies_device.{name}", like, copies) for name, like in made.arrays.items()}
        unit_more = {name: part(f"copies_unit_device.{name}", like, copies) for name, like in own_units.items()}
        held += [
            Devices(g, unit, c, {name: a[k] for name, a in more.items()}, {name: a[k] for name, a in unit_more.items()})
            for k, (g, unit) in enumerate(zip(g_us, units, strict=True))
        ]
    if "drift_factor" not in state:
        if "drift_unit_factor" in state:
            raise ArtifactError("saved factors against drift are those of unit columns alone", where=f"layer {name}")
        return held, ()
    slices = len(crossbar.row_cuts) - 1
    columns = np.ones((made.g_us.shape[0], slices, *made.g_us.shape[2:]))
    units = np.ones((made.g_us.shape[0], slices, made.unit_g_us.shape[2]))
    of_columns = part("drift_factor", columns, len(held))
    of_units = part("drift_unit_factor", units, len(held)) if units.size else [units] * len(held)
    return held, tuple(Factors(*pair) for pair in zip(of_columns, of_units, strict=True))
