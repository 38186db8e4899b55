"""Programs: ``.cim``."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import cimc
from cimc.ir.verify import verify
from tests.fuzz.models import IMAGES, programs
from tests.fuzz.mutations import Random, mutate_arrays, mutate_json
from tests.fuzz.safetensors_file import Arrays, broken, closed, opened

SUFFIX = ".cim"


def sound() -> dict[str, bytes]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.cim")
        for name, program in programs().items():
            program.save(path)
            found[name] = path.read_bytes()
            cimc.Chip(program).save(path)
            found[f"{name}-chip"] = path.read_bytes()
    return found


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    kind = random.random()
    if kind < 0.1:
        return broken(data, random)
    manifest, arrays = opened(data)
    if kind < 0.15:
        what, manifest = mutate_json(manifest, random)
        return f"manifest{what}", closed(manifest, arrays)
    program = json.loads(manifest["program"])
    if kind < 0.7:
        what, program = mutate_json(program, random)
    else:
        what, arrays = mutate_arrays(arrays, random)
    return what, sealed(manifest, program, arrays)


def sealed(manifest: Any, program: Any, arrays: Arrays) -> bytes:
    """A file whose hashes are right."""
    text = json.dumps(program)
    hashes = {name: _sha256(array) for name, array in arrays.items()}
    manifest = {**manifest, "program": text, "program_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return closed({**manifest, "tensors_sha256": hashes}, arrays)


def _sha256(array: Any) -> str:
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype.name}{array.shape}".encode() + array.tobytes()).hexdigest()


def use(path: Path) -> None:
    """Run some images, count the cost; what loads keeps the verifier's rules and gives finite outputs."""
    program = cimc.load(path)
    verify(program)
    chip = cimc.Chip(program)
    inputs = {}
    random = np.random.default_rng(0)
    for spec in program.inputs:
        shape = [size if isinstance(size, int) else IMAGES for size in spec.shape or (IMAGES,)]
        inputs[spec.name] = random.uniform(0, 1, [min(size, 64) for size in shape]).astype(spec.dtype or "float32")
    outputs = chip.run(inputs)
    for name, array in outputs.items():
        assert np.isfinite(array).all(), f"output {name} is not finite"
    program.cost()
    for layer in program.layers:
        program.cells(layer.name)
    program.to_onnx()
