"""Signatures: made, checked, and missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError, DataError
from cimc.image.check import verify_image
from cimc.image.container import signature
from cimc.image.reader import read_image
from tests.image.models import exact, network

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")


@pytest.fixture(scope="module")
def program() -> Any:
    return cimc.compile(network(), exact())


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path, "maker")


def written(folder: Path, name: str) -> tuple[Path, Path]:
    key = ed25519.Ed25519PrivateKey.generate()
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signed_image_names_its_key(program: Any, keys: tuple[Path, Path]) -> None:
    image = cimc.export_image(program, key=keys[0])
    assert "signature" in verify_image(image, public_key=keys[1])
    assert image.sha256 != cimc.export_image(program).sha256  # the flag is under the hash


def test_another_key_or_none_is_refused(program: Any, keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = written(tmp_path, "other")
    with pytest.raises(ArtifactError, match="another key signed"):
        verify_image(cimc.export_image(program, key=keys[0]), public_key=other)
    with pytest.raises(ArtifactError, match="is not signed"):
        verify_image(cimc.export_image(program), public_key=keys[1])


def test_every_bit_of_a_signature_counts(program: Any, keys: tuple[Path, Path]) -> None:
    data = bytearray(cimc.export_image(program, key=keys[0]).data)
    for bit in range(8 * (len(data) - 160), 8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtifactError):
            read_image(bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    read_image(bytes(data))


def test_a_signature_of_something_else_is_refused(program: Any, keys: tuple[Path, Path]) -> None:
    one = cimc.export_image(program, key=keys[0])
    two = cimc.export_image(program, key=keys[0], die="other")
    forged = two.data[:-128] + one.data[-128:]
    assert signature(forged) == signature(one.data)
    with pytest.raises(ArtifactError, match="signature does not fit"):
        read_image(forged)


def test_a_signature_that_cannot_be_checked_is_said(
    program: Any, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cimc.export_image(program, key=keys[0]).save(tmp_path / "signed.cimg")
    cimc.export_image(program).save(tmp_path / "plain.cimg")
    assert cimc.load_image(tmp_path / "signed.cimg", require_signature=True).signature == "checked"
    with pytest.raises(ArtifactError, match="is not signed"):
        cimc.load_image(tmp_path / "plain.cimg", require_signature=True)
    for module in ("sign", "content"):
        monkeypatch.setattr(f"cimc.image.{module}.available", lambda: False)
    with pytest.warns(UserWarning, match="cannot be checked"):
        image = cimc.load_image(tmp_path / "signed.cimg")
    assert image.signature == "not checked"
    assert "signature" not in verify_image(image)
    assert cimc.load_image(tmp_path / "plain.cimg").signature == "none"
    with pytest.raises(ArtifactError, match="cannot be checked without the package cryptography"):
        cimc.load_image(tmp_path / "signed.cimg", require_signature=True)


def test_files_that_hold_no_key_are_refused(program: Any, keys: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "no.pem", np.zeros(3))
    for bad in (tmp_path / "no.pem", tmp_path / "missing.pem", keys[1]):
        with pytest.raises(DataError, match="no private key"):
            cimc.export_image(program, key=bad)
    with pytest.raises(DataError, match="no public key"):
        verify_image(cimc.export_image(program), public_key=keys[0])
