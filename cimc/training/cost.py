"""What training costs on the chip, from the steps that ran: tile operations, time, energy, writes.

Reads and multiply-accumulates are those that the crossbars counted. An analog backward product takes two phases on every tile
of its layer, at the time and energy of a transposed read. A row that an update rule reads of one of its arrays is an operation of
the tiles that hold it. Time is that of the paper's figures: layers one after the other,
tiles of a layer together. What the target does not give is null. Of digital work only the multiply-accumulates of crossbar
layers are counted: their digital backward products and outer products.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cimc.ir.program import Program
from cimc.runtime.write import Writes
from cimc.targets.stated import as_known, unknown_costs
from cimc.targets.transposed import transposed_target


@dataclass
class Count:
    """Running sums, over training steps alone."""

    images: int = 0
    forward_ops: int = 0
    """Firings of a layer."""
    forward_tile_ops: int = 0
    backward_ops: int = 0
    backward_tile_ops: int = 0
    digital_macs: int = 0
    adc_conversions: int = 0
    adc_saturations: int = 0
    backward_conversions: int = 0
    """Of transposed reads, as the next."""
    backward_saturations: int = 0
    transfer_ops: int = 0
    """Rows of arrays that the update rule read, one after the other."""
    transfer_tile_ops: int = 0
    transfer_conversions: int = 0
    writes: Writes = field(default_factory=Writes)

    def add(self, before: dict[str, int], after: dict[str, int]) -> None:
        """Take in what the crossbars have done between two looks at their reads."""
        own = vars(self)
        for name, value in after.items():
            if name in own:
                own[name] += value - before[name]

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**vars(self), "writes": dict(vars(self.writes))}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Count:
        """From a checkpoint."""
        return cls(**{**record, "writes": Writes(**record["writes"])})


def training_cost(program: Program, count: Count) -> dict[str, Any]:
    """The cost object.

    Args:
        program: The training program.
        count: What ran.
    """
    target = as_known(program.target)
    timing = target.timing
    back = transposed_target(target).timing if count.backward_tile_ops else timing
    reads, tiles = count.forward_ops + count.transfer_ops, count.forward_tile_ops + count.transfer_tile_ops
    latency = _scaled(reads, timing.tile_op_ns, 1e-6), _scaled(count.backward_ops, back.tile_op_ns, 1e-6)
    energy = (
        _scaled(tiles, timing.tile_op_energy_nj, 1e-6),
        _scaled(count.backward_tile_ops, back.tile_op_energy_nj, 1e-6),
    )
    w = count.writes
    return {
        "images": count.images,
        "tile_ops": {
            "forward": count.forward_tile_ops, "backward": count.backward_tile_ops, "transfer": count.transfer_tile_ops,
        },
        "digital_macs": count.digital_macs,
        "writes": {
            "weight_updates": w.updates, "device_writes": w.devices, "pulses": w.pulses, "trials": w.trials,
            "verify_reads": w.reads, "failed": w.failed, "worn": w.worn,
        },
        "latency_ms": {"analog": _plus(*latency), "writes": _scaled(1, w.time_ns, 1e-6), "digital": None},
        "energy_mj": {"analog": _plus(*energy), "writes": _scaled(1, w.energy_nj, 1e-6), "digital": None},
        "notes": list(unknown_costs(program.target)),
    }  # fmt: skip


def _plus(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def _scaled(count: Any, unit: float | None, factor: float) -> float | None:
    return None if count is None or unit is None else float(count * unit * factor)
