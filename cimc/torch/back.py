"""Trained values into the module that was compiled."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import CimcError
from cimc.ir.program import Program
from cimc.training.trained import in_own_names, initializers_of
from cimc.training.trainer import Trainer


@checked("module", "trained")
@torch.no_grad()
def load_back(module: torch.nn.Module, trained: Trainer | Program) -> list[str]:
    """Write what was trained on the chip into a module: weights, digital parameters, running statistics.

    A weight on a crossbar is the digital copy W, which the devices hold as well as they can.

    Args:
        module: What `cimc.torch.compile` compiled, or one with the same ``state_dict``.
        trained: A trainer, or the trained program (``trainer.program()``, or ``cimc.load("trained.cim")``).

    Returns:
        Names of what was written.

    Raises:
        CimcError: A trained value has no place in the module, or a place of another shape. The module is then as it was.
    """
    if not isinstance(trained, Trainer | Program):
        raise CimcError(f"it is of type {type(trained).__name__}", where="load_back", fix="give a trainer or a trained program")
    program = trained.program() if isinstance(trained, Trainer) else trained
    values = trained.weights() if isinstance(trained, Trainer) else initializers_of(program)
    own = in_own_names(program, values)
    places = module.state_dict(keep_vars=True)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    if isinstance(trained, Program):  # it holds the constants of the model too
        own = {name: value for name, value in own.items() if name in places}
    _check(own, places, parameters)
    for name, value in own.items():
        places[name].copy_(torch.from_numpy(value.copy()))
    return sorted(own)


def _check(own: dict[str, NDArray[Any]], places: dict[str, Any], parameters: set[str]) -> None:
    fix = "compile the module with cimc.torch.compile, and load back into the same kind of module"
    if lost := sorted(set(own) - set(places)):
        raise CimcError(f"the module has no {', '.join(lost)}", where="load_back", fix=fix)
    for name, value in own.items():
        if tuple(places[name].shape) != value.shape:
            what = f"{name} is {list(value.shape)}, in the module {list(places[name].shape)}"
            raise CimcError(what, where="load_back", fix=fix)
    written = {places[name].data_ptr() for name in own}
    if lost := sorted(name for name in parameters if name not in own and places[name].data_ptr() not in written):
        what = f"the trained model has no value for {', '.join(lost)}"
        raise CimcError(what, where="load_back", fix=f"{fix}; freeze what is not to train in PyTorch too")
