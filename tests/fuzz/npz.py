"""Data files: ``.npz``."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cimc.data import load_arrays, load_labelled, read_npz
from cimc.ir.program import ValueSpec
from tests.fuzz.mutations import Random, mutate_arrays, pick

SUFFIX = ".npz"


def sound() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"x": random.uniform(0, 1, (6, 1, 4, 4)).astype(np.float32), "y": np.arange(6) % 3}
    found = {}
    for name, write in (("stored", np.savez), ("deflated", np.savez_compressed)):
        buffer = io.BytesIO()
        write(buffer, **arrays)
        found[name] = buffer.getvalue()
    return found


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    kind = pick(random, ("bits", "bits", "cut", "arrays", "arrays", "header", "header", "header", "twice", "name"))
    if kind == "bits":
        at = [int(k) for k in random.integers(len(data) * 8, size=int(random.integers(1, 4)))]
        changed = bytearray(data)
        for bit in at:
            changed[bit // 8] ^= 1 << bit % 8
        return f"bits {at} inverted", bytes(changed)
    if kind == "cut":
        begin, end = sorted(int(k) for k in random.integers(len(data), size=2))
        return f"bytes {begin} to {end} cut out", data[:begin] + data[end:]
    members = dict(_members(data))
    name = pick(random, sorted(members))
    if kind == "arrays":
        arrays = {n.removesuffix(".npy"): np.load(io.BytesIO(body)) for n, body in members.items()}
        what, arrays = mutate_arrays(arrays, random)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return what, buffer.getvalue()
    if kind == "header":
        what, members[name] = _header(members[name], random)
        return f"{name}: {what}", _archive(list(members.items()))
    if kind == "twice":
        return f"{name} twice", _archive([*members.items(), (name, members[name])])
    new = pick(random, ("x", "../x.npy", "\udcff.npy", "x.npy\0", "", "é.npy", "y.npy/"))
    return f"{name} renamed {new!r}", _archive([(new if n == name else n, body) for n, body in members.items()])


def _header(body: bytes, random: Random) -> tuple[str, bytes]:
    """Another header before the same data."""
    shape: Any = pick(random, ((1 << 40,), (1,) * 65, (-1,), (6, -16), (), (2**63, 2), (0,), "6", None, (6.5,), (True,), (6, 16)))
    descr: Any = pick(random, ("<f4", ">f4", "|O", "<M8[s]", [("a", "<f4")], "|V4", "<U1", "<f9", "", None, 4, "|S0", "<c8"))
    order: Any = pick(random, (False, True, None, 1))
    fields: Any = {"descr": descr, "fortran_order": order, "shape": shape}
    if random.random() < 0.2:
        del fields[pick(random, sorted(fields))]
    text = pick(random, (repr(fields), repr(fields), repr(fields)[:-3], "(" * 2000, "__import__('os')", repr(fields) + "\xff"))
    encoded = text.encode("latin1")
    version = pick(random, ((1, 0), (2, 0), (3, 0), (9, 9)))
    size = len(encoded).to_bytes(2 if version[0] == 1 else 4, "little")
    return f"header {version} {text[:120]}", b"\x93NUMPY" + bytes(version) + size + encoded + body[128:]


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _archive(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), body)
    return buffer.getvalue()


def use(path: Path) -> None:
    """Read it as a data file; what comes of it is finite in size, native and of the stated shape."""
    spec = ValueSpec(name="x", dtype="float32", shape=(None, 1, 4, 4))
    for arrays in (read_npz(path), load_arrays(path, [spec])):
        assert all(array.dtype.isnative and array.flags.aligned and array.dtype.kind != "V" for array in arrays.values())
    images, labels = load_labelled(path, spec)
    assert images.dtype == np.float32
    assert len(images) == len(labels)
