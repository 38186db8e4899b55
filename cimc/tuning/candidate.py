"""One way to put a model on a chip: what a search chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cimc.ir.records import ONCE, Repeats


@dataclass(frozen=True)
class Candidate:
    """Options of a compilation, and whether each die is fitted after it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted paths of the target's fields to values."""
    repeats: Mapping[str, Repeats] = field(default_factory=dict)
    """By layer."""
    digital: tuple[str, ...] = ()
    """Layers that stay digital."""
    fitted: bool = False
    """Whether a digital scale and offset of each output channel is fitted on each die (`Chip.fit_outputs`)."""
    tuned_epochs: int = 0
    """Epochs of noise-aware training before the compilation."""

    @property
    def key(self) -> str:
        """A text that is the same for the same candidate."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "settings": dict(self.settings),
            "repeats": {name: repeats.model_dump() for name, repeats in sorted(self.repeats.items()) if repeats != ONCE},
            "digital": sorted(self.digital),
            "fitted": self.fitted,
            "tuned_epochs": self.tuned_epochs,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """From the JSON form; KeyError, TypeError or ValueError where it is none."""
        repeats = {str(name): Repeats(**value) for name, value in record["repeats"].items()}
        digital = tuple(map(str, record["digital"]))
        return cls(dict(record["settings"]), repeats, digital, bool(record["fitted"]), int(record["tuned_epochs"]))

    def words(self) -> str:
        """What differs from the defaults, in a line."""
        parts = [f"{path}={value}" for path, value in self.settings.items()]
        for name, repeats in sorted(self.repeats.items()):
            parts += [f"{name}:{word}={n}" for word, n in repeats.model_dump().items() if n > 1]
        parts += [f"digital {name}" for name in sorted(self.digital)]
        parts += ["outputs fitted"] if self.fitted else []
        parts += [f"{self.tuned_epochs} epochs of noise-aware training"] if self.tuned_epochs else []
        return ", ".join(parts) or "the defaults"
