"""Checks of a read image against what the reader knows of the die and of who made it."""

from __future__ import annotations

from pathlib import Path

from cimc.errors import ArtifactError
from cimc.image.container import signature
from cimc.image.die import check_faults, check_platform, check_registers
from cimc.image.faults import FaultMap
from cimc.image.goals import platform_sha256, target_sha256
from cimc.image.image import Image
from cimc.targets.description import Target
from cimc.targets.load import load_target


def verify_image(
    image: Image,
    target: str | Path | Target | None = None,
    fault_map: str | Path | FaultMap | None = None,
    public_key: str | Path | None = None,
) -> list[str]:
    """What was checked, in words.

    Args:
        image: Read, so that its hash and its records are known to be right.
        target: Description of the die; None: not checked.
        fault_map: Of the die; None: not checked.
        public_key: File of the Ed25519 key that must have signed it; None: any, or none.

    Raises:
        ArtifactError: Something does not fit; the message says what.
    """
    checked = ["hash", "records", "tiles"]
    identity = image.identity
    hashes = identity["target_sha256"].tobytes(), identity["platform_sha256"].tobytes()
    if hashes != (target_sha256(image.target), platform_sha256(image.target)):
        raise ArtifactError("the target's hash is not that of the target in it", where=image.name, fix="export it again")
    check_registers(image)
    checked += ["target", "registers"]
    if target is not None:
        check_platform(image, load_target(target))
        checked.append("platform")
    if fault_map is not None:
        check_faults(image, fault_map)
        checked.append("fault map")
    if public_key is not None:
        _check_signer(image, public_key)
    if image.signature == "checked":
        checked.append("signature")
    return checked


def _check_signer(image: Image, key_file: str | Path) -> None:
    from cimc.image.sign import public_key

    wanted, found = public_key(key_file), signature(image.content)
    if found is None:
        raise ArtifactError("the image is not signed", where=image.name, fix="cimc export ... --sign KEY.pem")
    if found["public_key"].tobytes() != wanted:
        name = found["public_key"].tobytes().hex()[:16]
        raise ArtifactError(f"another key signed the image: {name}…", where=image.name, fix="get the image from its maker again")
