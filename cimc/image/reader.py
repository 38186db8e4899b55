"""Reading an image: nothing is used before hash, structure and every index in it are checked."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from cimc.image.container import Bytes, damaged, unpack
from cimc.image.image import Image
from cimc.image.records import check_cells, check_program, check_records
from cimc.image.store import Forgetful, forget, mapped
from cimc.ir.program import Program


def load_image(path: str | Path) -> Image:
    """Read an image. The file stays mapped: it may be replaced while the image is in use, not changed in place.

    Raises:
        ArtifactError: No such file, no image, another format version, or damaged.
    """
    return read_image(mapped(path), str(path))


def read_image(data: Bytes, where: str = "image") -> Image:
    """The image in ``data``; raises ArtifactError as `load_image` does."""
    content = memoryview(data).toreadonly()
    sections = unpack(content, where)
    try:
        meta = json.loads(sections["META"].tobytes())
        program = Program.model_validate(meta["program"])
        check_program(program, meta["weights"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, ValidationError) as error:
        raise damaged(where, "its description cannot be read") from error
    check_records(sections, program, where)
    check_cells(sections, where, Forgetful(content))
    forget(content)
    return Image(sections, meta, content, where)
