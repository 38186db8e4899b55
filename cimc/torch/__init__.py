"""A bridge to PyTorch: a module to a program, trained values back into the module, and a chip as a module.

It needs the extra ``torch``: ``pip install 'cimc[torch]'``.

    program = cimc.torch.compile(module, example, target="bulk-rram-256")
    trainer = cimc.Trainer(cimc.Chip(program))
    trainer.fit(loader, epochs=3)
    cimc.torch.load_back(module, trainer)

    with cimc.torch.noise_aware(module, program):
        ...  # a training loop of PyTorch
"""

from __future__ import annotations

from cimc.errors import CimcError

try:
    import onnxscript  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise CimcError(f"cimc.torch needs PyTorch and onnxscript: {error}", fix="pip install 'cimc[torch]'") from None

from cimc.torch.analog_module import AnalogModule
from cimc.torch.back import load_back
from cimc.torch.export import compile, to_onnx  # noqa: A004
from cimc.torch.noise import NoiseAware, noise_aware

__all__ = ["AnalogModule", "NoiseAware", "compile", "load_back", "noise_aware", "to_onnx"]
