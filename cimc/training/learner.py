"""One update: gradients to the optimizer, its steps to accumulators and devices, and to digital parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, CimcError, RunError
from cimc.ir.program import InputCoding, Program, UpdateStep, to_matrix
from cimc.runtime.chip import Chip
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.state import ChipState
from cimc.runtime.write import Writes, device_seed
from cimc.training.accumulator import LayerState
from cimc.training.expressions import Expressions
from cimc.training.gradients import clip_gradients, finite
from cimc.training.optimizers import Optimizer
from cimc.training.repeated import RepeatedWriter, lay_out
from cimc.training.rules.rule import Rule
from cimc.training.scales import LearntScales, rescale, times_factor, usable
from cimc.training.step import Step, StepResult
from cimc.training.trained import tied_initializers, trained_initializers, with_initializers

Arrays = dict[str, NDArray[Any]]


#: Share of pulse trains that are too short, from which on it is said.
_MANY_SHORT = 0.01


class DivergedError(RunError):
    """A loss, gradient or step is not finite."""


class Learner:
    """All that a step changes: the states of trained layers, their devices, digital parameters, the optimizer.

    Args:
        chip: It is trained in place.
        step: Of its training program.
        states: Of its trained layers.
        rule: How devices are updated.
        optimizer: Its parameters are called ``layer/NAME`` and ``digital/NAME``.
        clip_norm: Largest global norm of the gradients; None: any.
        scale_rate: Learning rate of learnt scales in parts of the others'. To the optimizer they are ``scale/NAME``.
        through: Parameters that crossbars' weights are computed from; to the optimizer they are digital ones.
    """

    def __init__(
        self, chip: Chip, step: Step, states: dict[str, LayerState], rule: Rule, optimizer: Optimizer, clip_norm: float | None,
        scale_rate: float, through: Expressions,
    ) -> None:  # fmt: skip
        self.chip, self.step, self.states, self.rule = chip, step, states, rule
        self.optimizer, self.clip_norm, self.through = optimizer, clip_norm, through
        step.parameters.update(through.start())
        self._ideal = chip.program.target.is_ideal
        self._writers: dict[str, Any] = {}
        self._readers: dict[str, RowReader] = {}
        for name, state in states.items():
            rule.begin(state)
            self._take_up(name, state)
            step.weights[name] = state.weights
            crossbar = chip.crossbars[name]
            keys, devices = crossbar.cells_of().keys, crossbar.state()
            writer = rule.writer(state, crossbar.g_us, device_seed(chip.seed, name), keys, devices)
            repeats = crossbar.layer.repeats
            self._writers[name] = writer if repeats.cells == 1 else RepeatedWriter(writer, repeats, crossbar.g_us.shape)
            self._lay_out(name)
        self._tied = tied_initializers(chip.program, tuple(states), tuple(step.parameters))
        shared = {layer.name for layers in self._tied.values() for layer in layers} | through.layers.keys()
        self.scales = LearntScales.of(step.program, shared, scale_rate)
        self.scales.begin(states)
        chip.memory |= {f"{name}/factor": s.factor for name, s in states.items() if s.factor is not None}
        if rule.takes == "vectors":
            self._check_vectors()
        updates = {s.parameter for s in step.program.steps if isinstance(s, UpdateStep) and s.action == "descend"}
        trained = updates | through.into.keys()
        self.masters: Arrays = {
            name: value.astype(np.float32)
            for name, value in step.parameters.items()
            if name in trained - self._tied.keys() and value.dtype.itemsize < 4
        }
        """What digital parameters of half precision are the rounded values of."""
        self._follow()
        self._changed()

    def gradients(self, result: StepResult) -> dict[str, NDArray[Any]]:
        """By the optimizer's names."""
        layers, digital = dict(result.layers), dict(result.digital)
        if self._tied:
            whole = result.gradients
            for name, held in self._tied.items():
                layers |= {layer.name: np.ascontiguousarray(to_matrix(layer.once, whole[name])) for layer in held}
                digital.pop(name, None)
        if self.through.into:
            layers = {name: gradient for name, gradient in layers.items() if name not in self.through.layers}
            digital = {name: gradient for name, gradient in digital.items() if name not in self.through.weights}
            digital |= self._behind(result)
        scales = self.scales.gradients(layers, self.states)
        parts = {"layer": times_factor(layers, self.states), "digital": digital, "scale": scales}
        return {f"{kind}/{name}": gradient for kind, part in parts.items() for name, gradient in part.items()}

    def by_initializer(self, result: StepResult) -> Arrays:
        """Gradients of all that trains, by initializer name, in its own shape."""
        found = result.gradients | self._behind(result)
        return {name: gradient for name, gradient in found.items() if name not in self.through.weights}

    def _behind(self, result: StepResult) -> Arrays:
        """Gradients of parameters that crossbars' weights are computed from, those of their digital uses added."""
        if not self.through.into:
            return {}
        found = self.through.gradients(self.step.parameters, result.gradients)
        return {name: found[name] + result.digital[name] if name in result.digital else found[name] for name in found}

    def update(
        self, gradients: Mapping[str, NDArray[Any]], lr: float, vectors: Mapping[str, Sequence[Vectors]] | None = None
    ) -> Writes:
        """Make one step.

        Args:
            gradients: By the optimizer's names.
            lr: Learning rate.
            vectors: By layer, in the place of the layers' gradients, where the rule takes them.

        Raises:
            DivergedError: A gradient or a change is not finite; no weight or device has changed then.
        """
        vectors = vectors or {}
        layer_lr = lr
        if self.clip_norm is not None:
            dense = {f"layer/{name}": np.sum([part.gradient() for part in parts], axis=0) for name, parts in vectors.items()}
            clipped, norm = clip_gradients({**gradients, **dense}, self.clip_norm)
            gradients = {name: clipped[name] for name in gradients}
            layer_lr *= min(1.0, self.clip_norm / norm) if norm > 0 else 1.0
        _finite("the gradient", gradients)
        _finite("the gradient", {f"layer/{n}": side for n, parts in vectors.items() for p in parts for side in (p.x, p.delta)})
        weights = times_factor({name: state.weights for name, state in self.states.items()}, self.states, inverse=True)
        held = {f"layer/{name}": array for name, array in weights.items()}
        digital = {**self.step.parameters, **self.masters}
        held |= {f"digital/{name}": value for name, value in digital.items() if name not in self._tied}
        held |= {f"scale/{name}": zeros for name, zeros in self.scales.parameters(self.states).items()}
        changes = self.optimizer.step(gradients, held, lr)
        if self.through.into:
            new = {name: np.asarray(digital[name] + changes[f"digital/{name}"], value.dtype)
                   for name, value in self.step.parameters.items() if name in self.through.into}  # fmt: skip
            changes |= {f"layer/{name}": step for name, step in self.through.changes(new, self.states).items()}
        _finite("the step", changes)
        logs = {name.removeprefix("scale/"): changes.pop(name) for name in list(changes) if name.startswith("scale/")}
        multiples = self.scales.multiples(logs)
        for name, multiple in multiples.items():
            if not usable(self.states[name], multiple):
                raise DivergedError(f"the scale of {name} is out of range")
        done, rule = Writes(), self.rule
        for name, change in changes.items():
            kind, _, own = name.partition("/")
            if kind == "layer" and rule.takes == "change":
                writer, factor = self._writers[own], self.states[own].factor
                done += rule.apply(self.states[own], change if factor is None else change * factor[:, None], writer)
                self._lay_out(own)
                if self._ideal:
                    self.chip.crossbars[own].written()
                elif writer.touched.size:
                    self.chip.crossbars[own].written(writer.touched)
            else:
                value = self.step.parameters[own]
                if own in self.masters:
                    self.masters[own] += change
                    self.step.parameters[own] = np.asarray(self.masters[own], value.dtype)
                else:
                    self.step.parameters[own] = np.asarray(value + change, value.dtype)  # a sum of scalars is no array
        if rule.takes == "vectors":
            for name, parts in vectors.items():
                reader = self._readers.setdefault(name, RowReader(self.chip.crossbars[name]))
                done += rule.apply(self.states[name], parts, layer_lr, self._writers[name], reader)
                self.chip.crossbars[name].written()
        for name, multiple in multiples.items():
            rescale(self.states[name], multiple)
            self._lay_out(name)
            self._respan(name)
            if self._ideal:
                self.chip.crossbars[name].written()
        self._follow()
        self._changed()
        return done

    def notes(self) -> list[str]:
        """What the user should know of the updates: layers whose pulse trains are often too short."""
        found = []
        for name, state in self.states.items():
            if "short_trains" in state.own and (total := int(state.own["trains"][0])):
                share = int(state.own["short_trains"][0]) / total
                if share > _MANY_SHORT:
                    what = f"{100 * share:.2g} % of the pulse trains are too short for their update"
                    found.append(
                        f"layer {name}: {what}, so devices move less than asked (a lower lr, or more update.pulse_train)"
                    )
        return found

    def _check_vectors(self) -> None:
        """See that nothing wants the gradients that a rule of rank-one steps does not form.

        Raises:
            CimcError: Something does.
        """
        name = self.chip.program.target.update.rule
        if self._tied:
            what = f"{next(iter(self._tied))} lives in several places, and {name} updates form no gradient to sum over them"
            raise CimcError(what, fix="compile with --tie none, or freeze it")
        if self.scales.kinds:
            what = f"{name} updates form no gradient of the weights, from which scales could be learnt"
            raise CimcError(what, fix="--learn-scales none")

    def _take_up(self, name: str, state: LayerState) -> None:
        """What the rule keeps of a layer goes on from the chip's memory, if that has it, and is part of it from now on.

        Raises:
            ArtifactError: The memory holds something else.
        """
        memory = self.chip.memory
        for key, own in state.own.items():
            found = memory.get(f"{name}/rule.{key}")
            if found is not None and (found.shape != own.shape or found.dtype != own.dtype):
                what = f"what another update rule kept: {key}"
                raise ArtifactError(what, where=f"layer {name}", fix="init='weights', which programs the chip anew")
            if found is not None:
                own[...] = found
            memory[f"{name}/rule.{key}"] = own

    def assign(self, statistics: Mapping[str, NDArray[Any]]) -> None:
        """Take in new running statistics."""
        self.step.parameters.update(statistics)

    def values(self) -> Arrays:
        """All that training has changed, by initializer name."""
        digital = {name: np.array(value) for name, value in self.step.parameters.items()}
        return trained_initializers(self.chip.program, self.states) | digital

    def program(self) -> Program:
        """The inference program with the weights and parameters as they are."""
        program = self.chip.program
        new = with_initializers(program, self.values(), tuple(self.chip.crossbars[layer.name].layer for layer in program.layers))
        repeats = {name: self.chip.crossbars[name].layer.repeats for name in self.states}
        spans = {
            f"weight_max/{name}": repeats[name].on_columns(_span(state.w_max), len(state.w_max))
            for name, state in self.states.items()
        }
        return new.model_copy(update={"tensors": {**new.tensors, **spans}})

    def _follow(self) -> None:
        """What digital nodes read of a crossbar's initializer is the digital copy W."""
        if read := [name for name in self._tied if name in self.step.parameters]:
            values = trained_initializers(self.chip.program, self.states)
            self.step.parameters.update({name: values[name] for name in read})

    def _lay_out(self, name: str) -> None:
        """The matrix of a layer with repeats follows W; that of any other is W itself."""
        crossbar, weights = self.chip.crossbars[name], self.states[name].weights
        if crossbar.matrix is not weights:
            lay_out(crossbar.matrix, weights, crossbar.layer)

    def _respan(self, name: str) -> None:
        """The crossbars of a layer follow the weight that spans its window."""
        crossbar = self.chip.crossbars[name]
        crossbar.rescale(crossbar.layer.repeats.on_columns(self.states[name].w_max, crossbar.groups))

    def _changed(self) -> None:
        self.chip.refresh = lambda: self.chip.adopt(self.program())

    # Checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """For a checkpoint, beside the state of the chip: all arrays, and the ranges and codings of all layers."""
        arrays: Arrays = {f"optimizer/{name}": array for name, array in self.optimizer.state().items()}
        arrays |= {f"digital/{name}": array for name, array in self.step.parameters.items()}
        arrays |= {f"master/{name}": array for name, array in self.masters.items()}
        ranges = {
            layer.name: {"coding": layer.coding.model_dump(mode="json"), "adc_range_ua": layer.adc_range_ua}
            for layer in self.chip.program.layers
        }
        return arrays, ranges

    def sizes(self) -> dict[str, int]:
        """Elements of each parameter, by the optimizer's names."""
        sizes = {f"layer/{n}": state.weights.size for n, state in self.states.items() if n not in self.through.layers}
        sizes |= {f"scale/{name}": zeros.size for name, zeros in self.scales.parameters(self.states).items()}
        return sizes | {f"digital/{name}": np.asarray(value).size for name, value in self.step.parameters.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]], ranges: Mapping[str, Any], chip: ChipState) -> None:
        """Go on from a checkpoint.

        Args:
            arrays: From `state`.
            ranges: Likewise.
            chip: The state of the chip; its memory has that of the layers.

        Raises:
            ArtifactError: It does not suit the model, the target or the optimizer.
        """
        if chip.noise_seed != self.chip.noise_seed:
            self.chip.noise_seed = chip.noise_seed
            self.step.take(self.step.program)
        self.chip.restore_state(chip)
        for name in self.states:
            self._lay_out(name)
            self._respan(name)
        for name in self.step.parameters:
            found = arrays.get(f"digital/{name}")
            if found is None or found.shape != self.step.parameters[name].shape:
                raise ArtifactError("the checkpoint lacks it", where=f"parameter {name}", fix="resume with the same model")
            self.step.parameters[name] = np.array(found)
        for name, own_master in self.masters.items():
            own_master[...] = arrays[f"master/{name}"]
        start = "optimizer/"
        self.optimizer.restore({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})
        self.chip.set_ranges({name: (InputCoding(**r["coding"]), r["adc_range_ua"]) for name, r in ranges.items()})
        self._follow()
        self._changed()


def _finite(what: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if not finite(array):
            raise DivergedError(f"{what} of {name.partition('/')[2]} is not finite")


def _span(w_max: NDArray[np.float32]) -> NDArray[np.float32]:
    return w_max.reshape(-1)[:1].copy() if (w_max == w_max.flat[0]).all() else w_max.reshape(-1).copy()
