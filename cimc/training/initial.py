"""Where training starts: what devices and digital copy hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.program import Layer, weight_matrix
from cimc.runtime.cells import born_on
from cimc.runtime.chip import Chip
from cimc.training.accumulator import LayerState
from cimc.training.window import Window, span_of

Init = Literal["weights", "devices"]


def initial_states(
    chip: Chip, layers: Sequence[str], init: Init | None, window: Window, notes: list[str]
) -> dict[str, LayerState]:
    """Bring the layers of a chip to the initial state of training; what a trained chip brings is taken as it is.

    Args:
        chip: Its trained layers are programmed anew, or left as they were born.
        layers: Names of those that train.
        init: ``weights``: the model's weights are programmed; ``devices``: W is read once from the devices as born, and none
            is written (Wu et al., arXiv 2305.14547). None: ``weights``, or a trained chip's own state.
        window: Which weight spans the conductance window.
        notes: Takes what the user should know.

    Returns:
        State by layer. The chip's crossbars and memory share its arrays.

    Raises:
        CimcError: An option is not usable.
        TargetError: The target's weights cannot train.
    """
    if init not in (None, "weights", "devices"):
        raise CimcError(f"init is {init!r}", fix="weights or devices")
    states = {}
    for name in layers:
        copies = chip.crossbars[name].copies
        if copies > 1:
            raise CimcError(
                f"its {copies} copies hold devices of their own, and training writes those of one",
                where=f"layer {name}",
                fix="train one copy, and give the image of the trained chip its copies: export_image(chip, copies={...})",
            )
        if init is None and f"{name}/weights" in chip.memory:
            states[name] = _continued(chip, name)
        else:
            worn = _Worn.of(chip, name)
            chip.memory = {key: array for key, array in chip.memory.items() if not key.startswith(f"{name}/rule.")}
            states[name] = _born(chip, name, window, worn) if init == "devices" else _programmed(chip, name, window, notes)
            worn.into(chip, name, states[name], programmed=init != "devices")
        chip.memory |= {f"{name}/{key}": array for key, array in states[name].state().items()}
    return states


@dataclass(frozen=True)
class _Worn:
    """What a layer that was trained before keeps when it starts anew: counters, and what worn devices hold."""

    counters: dict[str, NDArray[Any]]
    devices: NDArray[np.bool_] | None = None
    g_us: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, chip: Chip, name: str) -> Self:
        """Of a layer; nothing where it was not trained."""
        device, words = chip.program.target.device, ("updates", "writes", "pulses")
        counters = {word: chip.memory[f"{name}/{word}"] for word in words if f"{name}/{word}" in chip.memory}
        if device.endurance_writes is None or "writes" not in counters:
            return cls(counters)
        used = counters.get("pulses", counters["writes"])
        return cls(counters, used >= device.endurance_writes, chip.crossbars[name].g_us.copy())

    def keep(self, g_us: NDArray[np.float32]) -> None:
        """Let worn devices hold what they held; in place."""
        if self.devices is not None and self.g_us is not None:
            g_us[self.devices] = self.g_us[self.devices]

    def into(self, chip: Chip, name: str, state: LayerState, programmed: bool) -> None:
        """Go on counting; devices that were ``programmed`` anew were written once more."""
        for word, counts in self.counters.items():
            getattr(state, word)[...] = counts
        if programmed and self.counters:
            state.writes += np.uint32(1)
            self.keep(chip.crossbars[name].g_us)
            chip.crossbars[name].written()


def _born(chip: Chip, name: str, window: Window, worn: _Worn) -> LayerState:
    target, layer = chip.program.target, chip.program.layer(name)
    if target.is_ideal:
        raise CimcError("the ideal target has no devices to start from", fix="init weights")
    g_us = born_on(target.device, chip.crossbars[name].cells_of().keys())
    worn.keep(g_us)
    span = span_of(chip.program, layer, window, None)
    state = LayerState.from_devices(target, np.ascontiguousarray(g_us), span, layer.repeats)
    state.weights *= _inside(layer)
    _remap(chip, layer, state, span, np.ascontiguousarray(g_us))
    return state


def _programmed(chip: Chip, name: str, window: Window, notes: list[str]) -> LayerState:
    program, target, layer = chip.program, chip.program.target, chip.program.layer(name)
    weights = weight_matrix(program, layer.once).astype(np.float32)
    span = span_of(program, layer, window, weights)
    limit = span if span.size == 1 else span.reshape(layer.groups, 1, -1)
    clipped = float((np.abs(weights) > limit).mean())
    if clipped:
        notes.append(f"layer {name}: {100 * clipped:.2g} % of the weights are clipped to the window of ±{float(span.max()):.4g}")
    state = LayerState.from_weights(target, weights, span, layer.repeats)
    _remap(chip, layer, state, span)
    return state


def _continued(chip: Chip, name: str) -> LayerState:
    program, layer = chip.program, chip.program.layer(name)
    blank = np.zeros((layer.groups, layer.inputs, layer.once.columns), np.float32)
    state = LayerState.from_weights(program.target, blank, np.ones(1, np.float32), layer.repeats)
    if f"{name}/factor" in chip.memory:
        state.factor = np.ones_like(state.w_max)
    state.restore({key: chip.memory[f"{name}/{key}"] for key in state.state() if f"{name}/{key}" in chip.memory})
    _remap(chip, layer, state, state.w_max, chip.crossbars[name].g_us)
    return state


def _remap(chip: Chip, layer: Layer, state: LayerState, span: NDArray[Any], g_us: NDArray[np.float32] | None = None) -> None:
    """As `Chip.remap`, of the weights of a state and their span, once each."""
    repeats = layer.repeats
    chip.remap(layer.name, repeats.laid_out(state.weights), repeats.on_columns(span, layer.groups), g_us)


def _inside(layer: Layer) -> NDArray[np.float32]:
    """1 for the weights of the model, 0 between groups that are packed into one matrix."""
    _, rows, columns = layer.weight.shape
    blocks: NDArray[Any] = np.kron(np.eye(layer.group_packing), np.ones((rows, columns)))
    return blocks.astype(np.float32)
