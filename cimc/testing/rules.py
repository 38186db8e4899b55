"""The contract of update rules. A check raises AssertionError and says what is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cimc.compiler import compile as compile_program
from cimc.errors import CimcError
from cimc.ir.records import ONCE, Repeats
from cimc.runtime.chip import Chip
from cimc.targets.load import load_target
from cimc.threads import set_threads, threads
from cimc.training.accumulator import LayerState
from cimc.training.rules import registry
from cimc.training.trainer import Trainer

_MODEL = '<ir_version: 8, opset_import: ["": 17]> m (float[N, 6] x) => (float[N, 4] y) { y = MatMul (x, w) }'
_STEPS, _BATCH = 12, 8


def check_rule(
    rule: str, settings: Mapping[str, Any] | None = None, *, target: str = "bulk-rram", optimizer: str = "sgd", lr: float = 0.1
) -> None:
    """Hold an update rule to the contract of `cimc.rules.ChangeRule` or `VectorRule`, on a linear regression of 6 to 4 values.

    Args:
        rule: Its name: built in, or registered with ``cimc.register("update_rule", NAME, Rule)``.
        settings: Fields of the target, such as those of the rule's section (``update.gamma``).
        target: The chip.
        optimizer: For the regression.
        lr: Likewise; a rate at which its loss falls.

    Raises:
        AssertionError: The rule breaks the contract.
    """
    given = {"update.rule": rule, **(settings or {})}
    _interface(rule, given, target)

    def trained(steps: int, number: int = 1, goes_on: Trainer | None = None, repeats: Repeats = ONCE) -> Trainer:
        """A trainer after so many steps on as many threads, or one with the state of another."""
        before = threads()
        set_threads(number)
        try:
            made = _trainer(given, target, optimizer, lr, repeats)
            if goes_on is not None:
                made._training.restore(goes_on._training.state())
            for step in range(made.steps, steps):
                made.step(*_batch(step))
        finally:
            set_threads(before)
        return made

    whole = trained(_STEPS)
    _counted(whole)
    _same("in another run", whole, trained(_STEPS))
    _same("on three threads", whole, trained(_STEPS, number=3))
    _same("after a checkpoint", whole, trained(_STEPS, goes_on=trained(_STEPS // 3)))
    if getattr(registry.create(load_target(target, given)), "takes_repeats", False):
        _counted(trained(_STEPS, repeats=Repeats(rows=2, columns=2)))
    x, y = (np.concatenate(part) for part in zip(*(_batch(step) for step in range(8)), strict=True))
    start, end = (made.evaluate(x, y)["loss"] for made in (_trainer(given, target, optimizer, lr, ONCE), trained(4 * _STEPS)))
    assert end < start, f"the loss goes from {start:.4g} to {end:.4g} in {4 * _STEPS} steps"


def _batch(step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(step)
    x = random.normal(size=(_BATCH, 6)).astype(np.float32)
    goal = np.random.default_rng(99).normal(0, 0.5, (6, 4)).astype(np.float32)
    return x, x @ goal


def _trainer(settings: Mapping[str, Any], target: str, optimizer: str, lr: float, repeats: Repeats) -> Trainer:
    model = onnx.parser.parse_model(_MODEL)
    start = np.random.default_rng(5).normal(0, 0.1, (6, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(start, "w"))
    program = compile_program(model, target=target, calibration={"x": _batch(0)[0]}, settings=settings, repeats={"*": repeats})
    return Trainer(Chip(program, 1), loss="mse", optimizer=optimizer, lr=lr, batch_size=_BATCH, init="weights", w_max=2.0)


def _interface(name: str, settings: Mapping[str, Any], target: str) -> None:
    made = load_target(target, settings)
    try:
        rule = registry.create(made)
    except CimcError as error:
        raise AssertionError(f"it cannot be made for the target: {error}") from error
    assert isinstance(rule.stateless, bool), "stateless is neither True nor False"
    assert rule.takes in ("change", "vectors"), f"takes is {rule.takes!r}, neither 'change' nor 'vectors'"
    kept = []
    for _ in range(2):
        state = LayerState.from_weights(made, np.full((2, 3, 4), 0.1, np.float32), np.ones(1, np.float32))
        rule.begin(state)
        kept.append(state.own)
    assert kept[0].keys() == kept[1].keys(), "begin: other arrays for a state of the same shape"
    for word, array in kept[0].items():
        assert word.isidentifier(), f"begin: the name {word!r} is none of letters, digits and underlines"
        assert isinstance(array, np.ndarray), f"begin: {word} is no array"
        assert array.dtype.kind in "fiu", f"begin: {word} holds {array.dtype}, not numbers"
        assert array.shape == kept[1][word].shape, f"begin: {word} has another shape for a state of the same shape"
        assert np.isfinite(array).all(), f"begin: {word} is not finite"
    shares = made.update.shares
    assert all(np.isfinite(share) and share >= 0 for share in shares), f"the section's shares are {shares}"
    assert not shares or max(shares) > 0, "no array has a share in the weight"


def _counted(trainer: Trainer) -> None:
    """Counts agree with the counters of the devices, and everything is finite and within the window."""
    total = trainer._training.count.writes
    for name in trainer.chip.crossbars:
        used = int(trainer.chip.memory[f"{name}/writes"].sum())
        assert total.devices == used, f"it reports {total.devices} device writes, the devices count {used}"
        limit = 2.0 * max(1.0, sum(trainer.chip.program.target.update.shares)) * 1.25
        for word, array in (("W", trainer.weights()["w"]), ("a conductance", trainer.chip.conductances(name))):
            assert np.isfinite(array).all(), f"{word} is not finite"
        largest = float(np.abs(trainer.weights()["w"]).max())
        assert largest <= limit, f"W reaches {largest:.3g}, the arrays {limit:.3g}"
    assert total.devices > 0, f"no device was written in {_STEPS} steps"


def _same(when: str, one: Trainer, other: Trainer) -> None:
    for part, (a, b) in _bytes(one, other).items():
        assert a == b, f"{part} differs {when}, with the same seed and data"


def _bytes(one: Trainer, other: Trainer) -> dict[str, tuple[bytes, bytes]]:
    states = [trainer._training.state().arrays for trainer in (one, other)]
    assert states[0].keys() == states[1].keys(), "other arrays in the state"
    return {name: (np.asarray(states[0][name]).tobytes(), np.asarray(states[1][name]).tobytes()) for name in states[0]}
