"""A chip image as an artefact of the page: its cells are read from the file, no die is simulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cimc.image.content import microsiemens
from cimc.image.image import Image
from cimc.image.info import describe
from cimc.image.layout import PARK, REFERENCE, USE
from cimc.pages.arrays import MOST_CELLS, ArrayView, Block, arrays_section, with_map
from cimc.pages.costs import cost_section
from cimc.pages.forecast import forecast_section
from cimc.pages.graph import graph_section
from cimc.pages.parts import Artefact, Section, Table
from cimc.pages.program import made_from, program_facts
from cimc.pages.schedule import schedule_section

_GOALS = "Conductances are the goals that the image states for the cells, of the weights, of parked cells and of references."


def image_artefact(image: Image, name: str, prefix: str) -> Artefact:
    """All that a chip image tells."""
    program, about, arrays = image.compiled, describe(image), image_arrays(image)
    layers = [layer.name for layer in image.layers]
    cells: dict[str, object] = {f"cells: {word}": count for word, count in about["cells"].items()}
    facts = program_facts(program) | {"arrays": about["tiles"], "chips": about["chips"]} | cells
    sections = [graph_section(program), arrays_section(arrays, layers, image_maps(image, arrays), _GOALS, prefix)]
    if program.layers:
        sections += [cost_section(program), schedule_section(program)]
    if program.expected is not None:
        sections.append(forecast_section(program.expected))
    sections += [_identity(about), made_from(program)]
    held = {layer: image.goals(layer).g_us.reshape(-1) for layer in layers} if image.devices <= MOST_CELLS else {}
    return Artefact(name, "chip image", facts, [one for one in sections if one is not None], tuple(about["notes"]), held)


def image_arrays(image: Image) -> list[ArrayView]:
    """The arrays of an image, in the order of its records; lines of a block that has gaps are drawn as one rectangle."""
    blocks: list[list[Block]] = [[] for _ in image.sections["TILE"]]
    for layer in image.layers:
        for copy in range(image.copies(layer.name)):
            for record, rows, columns in image.segments(layer.name, copy):
                top, left = int(rows.min()), int(columns.min())
                block = Block(layer.name, top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
                blocks[int(record["tile_index"])].append(block)
    return [
        ArrayView(int(tile["chip"]), int(tile["tile"]), int(tile["rows"]), int(tile["columns"]), own)
        for tile, own in zip(image.sections["TILE"], blocks, strict=True)
    ]


def image_maps(image: Image, arrays: Sequence[ArrayView]) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Goals of the cells of the first of its arrays, ``[word lines, bit lines]``, µS; NaN for spare and faulty cells."""
    maps = {}
    for number, view in enumerate(with_map(arrays)):
        grid = image.grid(number)
        held = np.isin(grid["use"], (USE, PARK, REFERENCE))
        maps[view.chip, view.tile] = np.where(
            held, microsiemens(grid["code"], image.sections["TILE"][number]), np.float32(np.nan)
        )
    return maps


def _identity(about: dict[str, object]) -> Section:
    names = {
        "format_version": "format", "bytes": "bytes", "sha256": "SHA-256", "signature": "signature", "die": "die",
        "fault_map_sha256": "SHA-256 of the fault map", "source": "source of the weights", "seed": "seed", "compiler": "compiler",
        "instructions": "instructions",
    }  # fmt: skip
    rows = [(text, about[name]) for name, text in names.items() if about[name] is not None]
    rows = [(text, ".".join(map(str, value)) if isinstance(value, list) else value) for text, value in rows]
    return Section("Image", [], [], [], [Table("The file", ("", "value"), rows)])
