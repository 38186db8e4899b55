"""How a chip writes its devices, as its target says."""

from __future__ import annotations

from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.write import F32, U32, GaussianWriter, Writer
from cimc.runtime.write_verify import VerifyWriter
from cimc.targets.description import Target


def writer(
    target: Target, g_us: F32, writes: U32, seed: int, training: bool = True, keys: Keys | None = None,
    state: State | None = None, pulses: U32 | None = None,
) -> Writer:  # fmt: skip
    """The writer that ``update.programming`` names; arguments as of `DeviceState`.

    Args:
        training: Take the trials of training, not those of characterisation.

    Raises:
        TargetError: The target does not describe the pulses that write-verify needs.
    """
    if target.update.programming == "write_verify":
        return VerifyWriter(target, g_us, writes, seed, training, keys, state, pulses)
    return GaussianWriter(target, g_us, writes, seed, keys, state, pulses)
