"""Flash forms hold the same bytes, and the C reader sees the same cells."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError
from cimc.image.faults import FaultMap
from cimc.image.flash import c_header, flash
from cimc.image.layout import NO_HIGH, NO_LOW, SECTIONS, USES
from tests.image.models import exact, network

BRINGUP = Path(__file__).parents[2] / "examples" / "bringup"
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="no gcc")


@pytest.fixture(scope="module")
def image() -> Any:
    target = exact(weights__representation="offset", array__unit_column=True, weights__bits=4, weights__cells=2, device__levels=4)
    return cimc.export_image(cimc.compile(network(), target), fault_map=FaultMap.of(cells=[[0, 0, 2, 2], [0, 1, 7, 0]]))


def built(source: Path, out: Path) -> Path:
    flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    subprocess.run([str(GCC), *flags, "-o", str(out), str(source)], check=True, capture_output=True, text=True)
    return out


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(BRINGUP / "reader.c", tmp_path_factory.mktemp("bringup") / "reader")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


def test_the_raw_form_is_the_image_in_whole_sectors(image: Any) -> None:
    raw = flash(image.data, "bin")
    assert len(raw) % 4096 == 0
    assert raw.startswith(image.data)
    assert set(raw[len(image.data) :]) <= {0xFF}


def test_intel_hex_holds_the_same_bytes(image: Any) -> None:
    intelhex = pytest.importorskip("intelhex")
    text = flash(image.data, "hex").decode()
    assert text.splitlines()[-1] == ":00000001FF"
    assert intelhex.IntelHex(io.StringIO(text)).tobinstr() == image.data


def test_an_unknown_form_is_refused(image: Any) -> None:
    with pytest.raises(CimcError, match="no flash form elf"):
        flash(image.data, "elf")


def test_the_examples_header_is_that_of_this_version() -> None:
    assert (BRINGUP / "cimg.h").read_text() == c_header()


@needs_gcc
def test_the_c_header_compiles_and_holds_the_same_bytes(image: Any, tmp_path: Path) -> None:
    (tmp_path / "image.h").write_bytes(flash(image.data, "c"))
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "image.h"\n'
        "int main(void) { return fwrite(cimg_image, 1, sizeof cimg_image, stdout) != sizeof cimg_image || !cimg_magic[0]; }\n"
    )
    done = subprocess.run([str(built(tmp_path / "main.c", tmp_path / "main"))], capture_output=True, check=True)
    assert done.stdout == image.data


@needs_gcc
def test_the_c_reader_sees_every_cell_as_python_does(image: Any, reader: Path, tmp_path: Path) -> None:
    image.save(tmp_path / "m.cimg")
    (tmp_path / "m.bin").write_bytes(flash(image.data, "bin"))
    done = run(reader, tmp_path / "m.cimg", "cells")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(image.sections["CELL"])
    uses = set()
    for line in lines:
        *place, use, code, low, high, siemens = line.split()
        cell = image.cell(*map(int, place))
        uses.add(use)
        assert (use, int(code)) == (cell["use"], cell["code"])
        assert float(siemens) == pytest.approx(cell["g_us"] * 1e-6, rel=1e-12)
        assert (int(low) == NO_LOW) == (cell["low_us"] is None)
        assert (int(high) == NO_HIGH) == (cell["high_us"] is None)
    assert uses == set(USES) - {"park"}
    one = run(reader, tmp_path / "m.bin", 0, 1, 7, 0)
    assert one.stdout.split()[4] == "faulty"
    assert run(reader, tmp_path / "m.cimg", 0, 9, 0, 0).returncode == 2


@needs_gcc
def test_the_c_reader_says_what_the_image_is_for(image: Any, reader: Path, tmp_path: Path) -> None:
    image.save(tmp_path / "m.cimg")
    out = run(reader, tmp_path / "m.cimg").stdout
    assert "target bulk-rram\n" in out
    assert "layer first rows 20 columns 6" in out


@needs_gcc
def test_the_c_reader_refuses_what_is_damaged(image: Any, reader: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.cimg"
    random = np.random.default_rng(0)
    front = 64 + 32 * len(SECTIONS)
    for bit in [*random.integers(0, 8 * front, 40), *random.integers(8 * front, 8 * len(image.data), 40)]:
        damaged = bytearray(image.data)
        damaged[bit // 8] ^= 1 << int(bit) % 8
        path.write_bytes(damaged)
        done = run(reader, path)
        assert done.returncode == 1, f"bit {bit}: {done.stdout}"
        assert "refused" in done.stderr
    for end in (0, 7, 63, 64, 500, front, len(image.data) - 1):
        path.write_bytes(image.data[:end])
        assert run(reader, path).returncode == 1
    other = bytearray(image.data)
    other[8] = 9
    path.write_bytes(other)
    assert "another format version" in run(reader, path).stderr


@needs_gcc
def test_the_c_reader_reads_signed_images(reader: Path, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    key = Ed25519PrivateKey.generate().private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
    (tmp_path / "key.pem").write_bytes(key)
    cimc.export_image(cimc.compile(network(), exact()), key=tmp_path / "key.pem").save(tmp_path / "m.cimg")
    assert run(reader, tmp_path / "m.cimg").returncode == 0
