"""Ed25519 signatures of images (RFC 8032), by the package ``cryptography`` (the optional extra ``sign``)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cimc.errors import ArtifactError, DataError
from cimc.image.layout import SIGNATURE


def available() -> bool:
    """Whether signatures can be made and checked here."""
    return find_spec("cryptography") is not None


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ArtifactError("signatures need the package cryptography", fix="pip install 'cimc[sign]'") from error
    return serialization, ed25519


def signer(key_file: str | Path) -> Callable[[bytes], bytes]:
    """From a private key in PEM to a function from a hash to the signature's record.

    Raises:
        DataError: The file holds no unencrypted Ed25519 private key.
        ArtifactError: ``cryptography`` is not installed.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"no private key: {error}", where=str(key_file), fix="openssl genpkey -algorithm ed25519") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise DataError("the key is not an Ed25519 key", where=str(key_file), fix="openssl genpkey -algorithm ed25519")
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw

    def sign(digest: bytes) -> bytes:
        record = np.zeros(1, SIGNATURE)
        record["public_key"] = np.frombuffer(key.public_key().public_bytes(*raw), "u1")
        record["signature"] = np.frombuffer(key.sign(digest), "u1")
        record["crc32"] = zlib.crc32(record.tobytes()[:96])
        return record.tobytes()

    return sign


def check(record: np.void, digest: bytes, where: str) -> None:
    """Hold a signature to its own public key; whose key that is, the reader must say.

    Raises:
        ArtifactError: The signature is not of this hash. Without ``cryptography`` nothing is checked here:
            `Image.signature` says so.
    """
    if not available():
        return
    _, ed25519 = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(record["public_key"].tobytes()).verify(record["signature"].tobytes(), digest)
    except (InvalidSignature, ValueError) as error:
        fix = "get the image from its maker again"
        raise ArtifactError("the signature does not fit the image", where=where, fix=fix) from error


def public_key(key_file: str | Path) -> bytes:
    """The 32 bytes of a public key in PEM.

    Raises:
        DataError: The file holds no Ed25519 public key.
        ArtifactError: ``cryptography`` is not installed.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_public_key(Path(key_file).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"no public key: {error}", where=str(key_file), fix="openssl pkey -in KEY.pem -pubout") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise DataError("the key is not an Ed25519 key", where=str(key_file))
    raw: bytes = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw
