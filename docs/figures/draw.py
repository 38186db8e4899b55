"""Draw the figures of the guides: ``python docs/figures/draw.py`` writes them beside this file.

Diagrams are plain SVG of ours, the same bytes on every machine; a test holds the files to this code. Plots of results are drawn
by matplotlib from ``results.json``, which names the page and the command that each figure comes from.
"""

from __future__ import annotations

from pathlib import Path

import hardware
import learning
from svg import Drawing

HERE = Path(__file__).parent


def diagrams() -> dict[str, Drawing]:
    """Each diagram by the name of its file."""
    return {
        "overview.svg": hardware.overview(),
        "array.svg": hardware.array(),
        "bit-serial.svg": hardware.bit_serial(),
        "write-verify.svg": learning.write_verify(),
        "threshold.svg": learning.threshold(),
    }


if __name__ == "__main__":
    import plots

    for name, drawing in diagrams().items():
        (HERE / name).write_text(str(drawing), "utf-8")
    plots.draw(HERE)
