"""From a placed program and the goals of its devices to an image: small sections at once, cells into place part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.image.cells import Board
from cimc.image.container import Layout, Signer
from cimc.image.control import instructions, recipe, registers
from cimc.image.faults import FaultMap
from cimc.image.goals import Goals, platform_sha256, target_sha256
from cimc.image.layout import IDENTITY, NAME, SOURCES
from cimc.image.placement import Spots
from cimc.image.selftest import Vectors
from cimc.image.store import Forgetful
from cimc.image.tensors import Tensors
from cimc.ir.program import DigitalStep, Program

Array = NDArray[Any]

#: Tensors of a program that an image carries as they are.
_KEPT = ("initializer/", "bound/", "segment/", "scale/", "offset/", "weight_max/")


@dataclass
class Names:
    """Every name once, by number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def sections(self) -> dict[str, Array]:
        """``NAME`` and ``TEXT``."""
        texts = [name.encode() for name in self.numbers]
        table = np.zeros(len(texts), NAME)
        table["bytes"] = [len(text) for text in texts]
        table["offset"] = np.cumsum(table["bytes"]) - table["bytes"]
        return {"NAME": table, "TEXT": np.frombuffer(b"".join(texts), "u1")}


@dataclass(frozen=True)
class Draft:
    """An image that can be written: all is known of it but its cells, which are as many bytes as all else is few."""

    layout: Layout
    small: Mapping[str, Array]
    board: Board
    vectors: Vectors
    tensors: Tensors
    goals: Goals
    signer: Signer | None

    def write(self, buffer: memoryview) -> None:
        """Write the image to a buffer of `Layout.file_bytes` zeros."""
        after = Forgetful(buffer)
        self.board.fill(self._section(buffer, "CONV"), self._section(buffer, "CELL"), self.goals, after)
        self.vectors.fill(self._section(buffer, "STRE"), self.goals, after)
        self.tensors.fill(self._section(buffer, "TENS"), after)
        for tag, records in self.small.items():
            self._section(buffer, tag)[:] = records
        self._section(buffer, "TILE")[:] = self.board.tiles
        self.layout.seal(buffer, self.signer)

    def _section(self, buffer: memoryview, tag: str) -> Array:
        return self.layout.section(buffer, tag)


def draft(
    program: Program,
    goals: Goals,
    spots: Spots,
    *,
    faults: FaultMap | None,
    source: str,
    seed: int,
    die: str,
    about: Mapping[str, Any],
    signer: Signer | None,
) -> Draft:
    """All that an image takes.

    Args:
        program: For the image's target.
        goals: What the devices of each layer are to hold.
        spots: Where the segments are.
        faults: Of the die it is for; None: for any.
        source: One of `SOURCES`.
        seed: Of the chip it comes from.
        die: Name of the die; "" where it is for any.
        about: Further entries of the ``META`` section.
        signer: From `cimc.image.sign.signer`, or None.
    """
    names = Names()
    for layer in program.layers:
        names(layer.name)
    weights = _held_as_cells(program)
    kept = {
        name: array
        for name, array in program.tensors.items()
        if name == "graph" or (name.startswith(_KEPT) and name.removeprefix("initializer/") not in weights)
    }
    board, vectors, tensors = Board.of(program, spots, faults), Vectors.of(program, spots), Tensors.of(kept)
    small = {"LAYR": board.layers, "SEGM": board.segments, "LINE": board.lines, "STVE": vectors.heads, "STDR": vectors.drives}
    small |= instructions(program, names) | registers(program) | recipe(program.target) | names.sections()
    small["IDEN"] = _identity(program, faults, source, seed, die)
    meta = {
        "program": json.loads(program.model_dump_json()),
        "weights": {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in weights.items()},
        "inputs": [value.model_dump(mode="json") for value in program.inputs],
        "outputs": [value.model_dump(mode="json") for value in program.outputs],
        **about,
    }
    small["META"] = np.frombuffer(json.dumps(meta, separators=(",", ":")).encode(), "u1")
    counts = {tag: len(records) for tag, records in small.items()}
    counts |= board.counts | {"TILE": len(board.tiles), "STRE": vectors.reads, "TENS": tensors.size}
    return Draft(Layout.of(counts, signer is not None), small, board, vectors, tensors, goals, signer)


def _held_as_cells(program: Program) -> dict[str, Array]:
    """Initializers that the cells hold whole, and that nothing else reads: the image does not store them again."""
    read = {name for step in program.steps if isinstance(step, DigitalStep) for name in _segment_initializers(program, step)}
    read |= {value.name for value in (*program.inputs, *program.outputs)}
    open_parts: dict[str, NDArray[np.bool_]] = {}
    for layer in program.layers:
        name = layer.weight.tensor
        if name not in read:
            mask = open_parts.setdefault(name, np.ones(program.tensors[f"initializer/{name}"].shape, np.bool_))
            mask[layer.weight.index] = False
    return {name: program.tensors[f"initializer/{name}"] for name, mask in open_parts.items() if not mask.any()}


def _segment_initializers(program: Program, step: DigitalStep) -> set[str]:
    import onnx

    model = onnx.ModelProto.FromString(program.tensors[f"segment/{step.name}"].tobytes())
    return {tensor.name for tensor in model.graph.initializer} | set(step.inputs)


def _identity(program: Program, faults: FaultMap | None, source: str, seed: int, die: str) -> Array:
    record = np.zeros(1, IDENTITY)
    target = program.target
    hashes = {
        "target_sha256": target_sha256(target),
        "platform_sha256": platform_sha256(target),
        "model_sha256": bytes.fromhex(program.provenance.model_sha256 or "00" * 32),
        "fault_map_sha256": faults.sha256 if faults else bytes(32),
    }
    texts = {"target_name": target.name, "die_id": die, "compiler": f"cimc {program.provenance.cimc_version}"}
    for name, value in (hashes | {name: text.encode() for name, text in texts.items()}).items():
        room = record[name].shape[1]
        record[name][0, : min(room, len(value))] = np.frombuffer(value[:room], "u1")
    record["has_fault_map"], record["source"], record["seed"] = faults is not None, SOURCES.index(source), seed
    return record
