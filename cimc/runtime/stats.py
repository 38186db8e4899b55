"""What the crossbars of a layer have done since they were made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """Counts of one layer on one chip."""

    positions: int = 0
    """VMM positions."""
    tile_reads: int = 0
    """Tile operations: positions times tiles, twice for two-phase inputs."""
    adc_conversions: int = 0
    adc_saturations: int = 0
    dac_inputs: int = 0
    dac_clips: int = 0
    transposed_reads: int = 0
    """Tile operations of transposed reads, two a position and tile."""
    transposed_conversions: int = 0
    transposed_saturations: int = 0
    reference_reads: int = 0
    """Tile operations of reference reads for drift compensation."""
    reference_conversions: int = 0
    transfer_reads: int = 0
    """Tile operations of the row reads that update rules make of their arrays."""
    transfer_conversions: int = 0
    transfer_saturations: int = 0
    digital_macs: int = 0
    """Multiply-accumulates of the digital backward products and outer products, with weights of the model."""
