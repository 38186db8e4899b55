"""A saved state of a chip, back in that chip: in place, as those who write its devices share its arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.saved import DRIFT_PARTS, saved_devices
from cimc.runtime.state import ChipState

#: Where the cells of a layer are: another place is another layer.
_PLACES = ("sites", "lines")


def check_state(
    state: ChipState, own: ChipState, crossbars: Mapping[str, Crossbar], layers: Collection[str] | None = None
) -> None:
    """See that a chip can take up a saved state. Nothing of the chip changes.

    Args:
        state: Saved; from `ChipState.of_tensors`.
        own: Of the chip now.
        crossbars: Of the chip.
        layers: Names of those that the state must have; None: all. Others may be missing.

    Raises:
        ArtifactError: It is that of another chip, or of another program.
    """
    if state.seed != own.seed:
        _fail("tensor state/seed", f"it is of chip {state.seed}, this is chip {own.seed}")
    for name in sorted(crossbars):
        if name in state.layers:
            _check_layer(name, crossbars[name], state.layers[name], own.layers[name])
        elif layers is None or name in layers:
            _fail(f"layer {name}", "its devices are missing")
    for name in sorted(state.memory.keys() | own.memory.keys()):
        found, mine = state.memory.get(name), own.memory.get(name)
        if found is None or mine is None:
            _fail(f"tensor state/{name}", "it is missing" if found is None else "the chip has none")
        if (found.shape, found.dtype) != (mine.shape, mine.dtype):
            given, wanted = (f"{array.dtype.name}{list(array.shape)}" for array in (found, mine))
            _fail(f"tensor state/{name}", f"it is {given}, not {wanted}")


def restore_devices(name: str, crossbar: Crossbar, state: Mapping[str, NDArray[Any]]) -> None:
    """Let a layer's own arrays hold what `cimc.runtime.saved.device_state` gave; `check_state` has let it pass.

    Raises:
        ArtifactError: As `cimc.runtime.saved.saved_devices`.
    """
    held, factors = saved_devices(name, crossbar, state)
    for own, saved in zip(crossbar.held, held, strict=True):
        own.g_us[...], own.unit_g_us[...] = saved.g_us, saved.unit_g_us
        for there, here in ((own.arrays, saved.arrays), (own.unit_arrays, saved.unit_arrays)):
            for key, array in here.items():
                there[key][...] = array
        if "alpha" in state:
            own.coefficients.alpha[...] = saved.coefficients.alpha
            if own.coefficients.unit is not None and saved.coefficients.unit is not None:
                own.coefficients.unit[...] = saved.coefficients.unit
    crossbar.written()
    crossbar.compensate(factors)


def _check_layer(name: str, crossbar: Crossbar, state: Mapping[str, NDArray[Any]], own: Mapping[str, NDArray[Any]]) -> None:
    for part in sorted((state.keys() ^ own.keys()) - set(DRIFT_PARTS)):
        _fail(f"tensor state/{name}/{part}", "it is missing" if part in own else "the layer has none")
    held, factors = saved_devices(name, crossbar, state)
    if len(held) != len(crossbar.held):
        _fail(f"layer {name}", f"the state is of {len(held)} copies, the layer has {len(crossbar.held)}")
    drift = crossbar.target.device.drift
    if factors and (drift is None or drift.compensation == "none"):
        _fail(f"layer {name}", "it has factors against drift, which the chip does not compensate")
    if any(not np.array_equal(state[part], own[part]) for part in _PLACES if part in own):
        _fail(f"layer {name}", "it is on other cells of the die")


def _fail(where: str, what: str) -> NoReturn:
    raise ArtifactError(what, where=where, fix="make the chip as it was made when its state was saved")
