"""What users hold of an inference-chip image: its content, and other dice made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cimc.image.content import ImageContent
from cimc.image.die import Die, program_die
from cimc.image.faults import FaultMap
from cimc.shown import Shown
from cimc.targets.description import Target

Array = NDArray[Any]


class Image(Shown, ImageContent):
    """Made by `export_image` or `load_image`; see `ImageContent` for its attributes."""

    def _facts(self) -> dict[str, object]:
        return {
            "model": self.outline.provenance.model or None, "target": self.target.name, "bytes": len(self.content),
            "tiles": len(self.sections["TILE"]), "cells": len(self.sections["CELL"]), "source": self.source,
            "die": self.die or None, "signature": self.signature,
        }  # fmt: skip

    def program(
        self,
        seed: int = 0,
        *,
        target: str | Path | Target | None = None,
        fault_map: str | Path | FaultMap | None = None,
        calibration: Mapping[str, Array] | None = None,
        programming: str = "auto",
        error_free: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> Die:
        """Write this image into another die; see `cimc.image.die.program_die`."""
        return program_die(
            self,
            seed,
            target=target,
            fault_map=fault_map,
            calibration=calibration,
            programming=programming,
            error_free=error_free,
            advance=advance,
        )
