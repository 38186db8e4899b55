"""What a command will write, checked against what it reads, before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cimc.errors import ModelError
from cimc.files import check_outputs

#: Files of one part; a model may have its weights in others.
_WHOLE = (".cim", ".cimg", ".npz", ".pem", ".safetensors")


def guard(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Refuse an output that cannot be written, that is an input, or that is another output; see `cimc.files.check_outputs`."""
    written = [path for path in outputs if path is not None]
    read = [Path(path) for path in inputs if path is not None]
    if any(os.path.exists(path) for path in written):  # only what exists can be an input
        read += [more for path in read if os.path.isfile(path) for more in _parts(path)]
    check_outputs(written, read)


def _parts(path: Path) -> list[Path]:
    """The other files that an input is read from: what a target extends, the external data of a model."""
    if path.suffix in (".yaml", ".yml"):
        from cimc.targets.load import files_of

        return files_of(path)
    return [] if path.suffix in _WHOLE else _external(path)


def _external(model: Path) -> list[Path]:
    """The files of a model's external data; of what is no model, none: reading it will say so."""
    from cimc.frontend.load import external_files

    try:
        return external_files(model)
    except ModelError:
        return []
