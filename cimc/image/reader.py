"""Reading an image: nothing is used before hash, structure and every index in it are checked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from pydantic import ValidationError

from cimc.arguments import checked
from cimc.errors import ArtifactError
from cimc.image.container import Bytes, damaged, unpack
from cimc.image.image import Image
from cimc.image.records import check_cells, check_program, check_records
from cimc.image.store import Forgetful, forget, mapped
from cimc.ir.kinds import expect
from cimc.ir.program import Program
from cimc.targets.told import parsed


@checked()
def load_image(path: str | Path, *, require_signature: bool = False) -> Image:
    """Read an image. The file stays mapped: it may be replaced while the image is in use, not changed in place.

    A signature that cannot be checked, for want of the package ``cryptography``, gives a warning.

    Args:
        path: The file.
        require_signature: Refuse an image whose signature is missing or cannot be checked.

    Raises:
        ArtifactError: No such file, no image, another format version, or damaged.
    """
    expect(path, "image", ArtifactError)
    image = read_image(mapped(path), str(path))
    if image.signature == "none" and require_signature:
        raise ArtifactError("the image is not signed", where=image.name, fix="cimc export ... --sign KEY.pem")
    if image.signature == "not checked":
        what = "the image is signed, but its signature cannot be checked without the package cryptography"
        if require_signature:
            raise ArtifactError(what, where=image.name, fix="pip install 'cimc[sign]'")
        warnings.warn(f"{image.name}: {what}", stacklevel=2)
    return image


def read_image(data: Bytes, where: str = "image") -> Image:
    """The image in ``data``; raises ArtifactError as `load_image` does."""
    content = memoryview(data).toreadonly()
    sections = unpack(content, where)
    try:
        meta = json.loads(sections["META"].tobytes())
        program = parsed(Program, meta["program"])
        check_program(program, meta["weights"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, ValidationError) as error:
        raise damaged(where, "its description cannot be read") from error
    check_records(sections, program, where)
    check_cells(sections, where, Forgetful(content))
    forget(content)
    return Image(sections, meta, content, where)
