"""What one image costs, read off the program that runs. Rules of Wu et al., arXiv 2305.14547, checked on its LeNet:

- An *operation* of a layer is one position: all its crossbars fire once, in parallel. Signed inputs that go in two phases
  take two. A layer that several steps use adds up their positions. Tokens or frames that a reshape folds into the first axis
  are positions of the image they come from. So operations are what a chip counts when it runs one image.
- A *tile operation* is one crossbar firing once: operations times crossbars. Energy counts tile operations.
- *sequential* adds up the operations of all layers. *pipelined* is the slowest layer, with a tile for each crossbar;
  *copies* the same, with the positions of a layer shared among its copies.
- *placed* is pipelined on the tiles as they are: layers on one tile cannot overlap.

None stands for what is not modelled: a figure that the target does not give, or gives for an array or converter of another
size (`cimc.targets.stated`), a shape that is not static, digital work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cimc.arguments import checked
from cimc.ir.blocks import check_copies, reference_columns
from cimc.ir.copies import auto_copies, crossbars_as_published, crossbars_with_copies
from cimc.ir.occupancy import busiest_tile, firings, placed_copies, tiles_in_use
from cimc.ir.records import Layer, ProgramRecord
from cimc.targets.description import Target
from cimc.targets.stated import as_known, unknown_costs

#: Figures of the target that a cost rests on.
_USED = ("timing.tile_op_ns", "timing.tile_op_energy_nj", "timing.programming_energy_nj")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerCost(_Record):
    """One layer, without its copies; ``ops`` and what follows from it are None where a shape is not static."""

    name: str
    rows: int = Field(description="Word lines of one group's matrix.")
    columns: int = Field(description="Device bit lines of one group's matrix.")
    groups: int
    crossbars: int
    copies: int
    devices: int = Field(description="Devices that hold a weight.")
    ops: int | None
    tile_ops: int | None
    latency_ms: float | None
    latency_copies_ms: float | None = Field(description="With its copies, which share its positions.")
    energy_mj: float | None
    utilisation: float | None = Field(description="Share of the cells of its crossbars that hold a weight.")


class Latency(_Record):
    """Milliseconds an image."""

    sequential: float | None
    pipelined: float | None
    copies: float | None = Field(description="None unless copies are placed or asked for.")
    placed: float | None = Field(description="None before `place`.")


class Energy(_Record):
    """Millijoules an image; ``programming``: of writing every cell once."""

    analog: float | None
    digital: float | None
    programming: float | None


class Cost(_Record):
    """Cost of one image; see the module for the rules."""

    crossbars: int = Field(description="Logical arrays, one copy of each layer.")
    crossbars_with_copies: int | None = Field(description="None unless copies are placed or asked for.")
    crossbars_with_copies_published: int | None = Field(description="As the paper counts; see `crossbars_as_published`.")
    tiles: int | None = Field(description="Physical tiles in use; None before `place`.")
    chips: int | None
    devices: int = Field(description="Devices that hold a weight, one copy of each layer.")
    flops: int | None = Field(description="Two for each multiply-accumulate with a weight of the model.")
    ops: int | None
    tile_ops: int | None
    latency_ms: Latency
    energy_mj: Energy
    utilisation: float | None = Field(description="Share of the cells of all tiles in use that hold a weight, copies included.")
    layers: tuple[LayerCost, ...]
    notes: tuple[str, ...] = Field((), description="What counts assume, and why figures are null, in sentences.")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; unrounded."""
        return self.model_dump()


@checked()
def cost(program: ProgramRecord, copies: Mapping[str, int] | Literal["auto"] | None = None, crossbars: int | None = None) -> Cost:
    """Cost of one image.

    Args:
        program: From pass `tile` on; tiles, chips and placed latency need `place`.
        copies: By layer, as if it had so many; "auto": the slowest layer gets one more as long as the budget allows it;
            None: as placed.
        crossbars: The budget of "auto"; None: half as many again as without copies.

    Raises:
        CimcError: Copies of a layer that is not there, or fewer than one; a budget below one copy of each layer.
    """
    target = as_known(program.target)
    placed = placed_copies(program)
    ops = {layer.name: firings(program, layer) for layer in program.layers}
    if copies == "auto":
        chosen = auto_copies(program, crossbars)
    else:
        chosen = {name: n for name, n in placed.items() if n > 1} if copies is None else dict(check_copies(copies, program))
    asked = copies is not None or bool(chosen)
    layers = tuple(_layer_cost(program, layer, chosen.get(layer.name, 1), target) for layer in program.layers)
    total, tile_ops = _sum(ops.values()), _sum(c.tile_ops for c in layers)
    tiles = tiles_in_use(program)
    busiest, alone = busiest_tile(program), _slowest(program, {})
    return Cost(
        crossbars=sum(c.crossbars for c in layers),
        crossbars_with_copies=crossbars_with_copies(program.layers, chosen, target) if asked else None,
        crossbars_with_copies_published=crossbars_as_published(program.layers, chosen, target) if asked else None,
        tiles=None if tiles is None else len(tiles),
        chips=None if tiles is None else len(set(tiles[:, 0].tolist())),
        devices=sum(c.devices for c in layers),
        flops=_flops(program),
        ops=total,
        tile_ops=tile_ops,
        latency_ms=Latency(
            sequential=_milliseconds(total, target),
            pipelined=_milliseconds(alone, target),
            copies=_milliseconds(_slowest(program, chosen), target) if asked else None,
            placed=_milliseconds(busiest, target),
        ),
        energy_mj=Energy(
            analog=_millijoules(tile_ops, target.timing.tile_op_energy_nj),
            digital=None,
            programming=_millijoules(_cells_written(program, placed), target.timing.programming_energy_nj),
        ),
        utilisation=_utilisation(
            sum(c.devices * placed.get(c.name, 1) for c in layers), 0 if tiles is None else len(tiles), target
        ),
        layers=layers,
        notes=(*_notes(program), *_slowed(busiest, _slowest(program, placed)), *unknown_costs(program.target, _USED)),
    )


def macs_by_layer(program: ProgramRecord) -> dict[str, int]:
    """Multiply-accumulates of each layer for one image; positions that are not known count as one."""
    found = dict.fromkeys((layer.name for layer in program.layers), 0)
    for step in program.vmm_steps:
        found[step.layer] += (step.positions or 1) * prod(program.layer(step.layer).weight.shape)
    return found


def _notes(program: ProgramRecord) -> tuple[str, ...]:
    """A sentence for each basis of positions, with the layers that it concerns."""
    concerned: dict[str, dict[str, None]] = {}
    for step in program.vmm_steps:
        if step.positions is None or step.positions_basis:
            basis = step.positions_basis or "its input's size is not known"
            unknown = "not counted, as" if step.positions is None else "assumed, as"
            concerned.setdefault(f"{unknown} {basis}", {})[step.layer] = None
    return tuple(f"operations of {_named(list(layers))} are {basis}" for basis, layers in concerned.items())


def _slowed(busiest: int | None, slowest: int | None) -> tuple[str, ...]:
    if not busiest or not slowest or busiest <= slowest:
        return ()
    return (
        f"layers that share an array slow the chip {busiest / slowest:.2f} times (mapping.packing=dense, or few chips): "
        f"the busiest array fires {busiest} times an image, the slowest layer {slowest} times",
    )


def _named(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(layers[:3])}{more}"


def _slowest(program: ProgramRecord, copies: Mapping[str, int]) -> int | None:
    """Firings of the layer that fires most; copies share its positions."""
    found = [firings(program, layer, copies.get(layer.name, 1)) for layer in program.layers]
    known = [count for count in found if count is not None]
    return max(known, default=0) if len(known) == len(found) else None


def _sum(values: Iterable[int | None]) -> int | None:
    """None where one of them is."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _flops(program: ProgramRecord) -> int | None:
    weights = {layer.name: prod(layer.weight.shape) for layer in program.layers}
    return _sum(None if step.positions is None else 2 * step.positions * weights[step.layer] for step in program.vmm_steps)


def _layer_cost(program: ProgramRecord, layer: Layer, copies: int, target: Target) -> LayerCost:
    ops = firings(program, layer)
    weights = prod(layer.weight.shape) * layer.repeats.rows * layer.repeats.columns
    references = reference_columns(layer, target)
    devices = weights * target.planes + layer.groups * layer.rows * references
    tile_ops = None if ops is None else ops * layer.crossbars
    return LayerCost(
        name=layer.name,
        rows=layer.rows,
        columns=layer.columns * target.planes + references,
        groups=layer.groups,
        crossbars=layer.crossbars,
        copies=copies,
        devices=devices,
        ops=ops,
        tile_ops=tile_ops,
        latency_ms=_milliseconds(ops, target),
        latency_copies_ms=_milliseconds(firings(program, layer, copies), target),
        energy_mj=_millijoules(tile_ops, target.timing.tile_op_energy_nj),
        utilisation=_utilisation(devices, layer.crossbars, target),
    )


def _milliseconds(ops: int | None, target: Target) -> float | None:
    duration = target.timing.tile_op_ns
    return None if ops is None or duration is None else ops * duration / 1e6


def _millijoules(count: int | None, energy_nj: float | None) -> float | None:
    return None if count is None or energy_nj is None else count * energy_nj / 1e6


def _utilisation(devices: int, arrays: int, target: Target) -> float | None:
    rows, columns = target.array.rows, target.array.columns
    return None if rows is None or columns is None or not arrays else devices / (arrays * rows * columns)


def _cells_written(program: ProgramRecord, placed: Mapping[str, int]) -> int:
    """Cells of all blocks: those that hold no weight are written to the lowest conductance."""
    target = program.target
    return sum(
        layer.groups * layer.rows * (layer.columns * target.planes + reference_columns(layer, target)) * placed.get(layer.name, 1)
        for layer in program.layers
    )
