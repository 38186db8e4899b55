"""MNIST is the published MNIST, from whatever file, or an error."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pooch
import pytest

from cimc import datasets
from cimc.errors import DataError

#: MD5 of the unpacked IDX files of the MNIST database.
IDX_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


def test_the_shipped_copy_is_the_idx_files() -> None:
    for name, array in datasets.mnist().items():
        header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        assert hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest() == IDX_MD5[name]


def test_a_changed_pixel_is_refused(tmp_path: Path) -> None:
    arrays = datasets.mnist()
    arrays["x_test"] = arrays["x_test"].copy()
    arrays["x_test"][7, 3, 3] ^= 1
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="x_test is not the published one"):
        datasets.mnist(path)


def test_an_array_that_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataError, match="no array x_train"):
        datasets.mnist(path)


def test_no_network_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path)
    with pytest.raises(DataError, match="cannot be fetched"):
        datasets._fetch("http://127.0.0.1:9/mnist.npz", datasets.MNIST_FILE_SHA256)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """Serves a folder on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_kept_only_with_the_right_hash(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda _: cache)
    (tmp_path / "data.npz").write_bytes(b"digits")
    with pytest.raises(DataError, match="cannot be fetched"):
        datasets._fetch(f"{host}/data.npz", hashlib.sha256(b"other digits").hexdigest())
    assert not list(cache.glob("*data.npz"))
    fetched = datasets._fetch(f"{host}/data.npz", hashlib.sha256(b"digits").hexdigest())
    assert fetched.read_bytes() == b"digits"


def fashion_files(folder: Path, images: int = 2) -> None:
    """Small IDX files of the right names."""
    for name, file in datasets.FASHION_MNIST_FILES.items():
        shape = (images, 28, 28) if name.startswith("x") else (images,)
        header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
        (folder / file).write_bytes(gzip.compress(header + bytes(int(np.prod(shape)))))


@pytest.mark.skipif(not datasets.FASHION_MNIST_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_package_of_fashion_mnist_is_the_published_one() -> None:
    arrays = datasets.fashion_mnist()
    assert {name: array.shape for name, array in arrays.items()} == {
        "x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,),
    }  # fmt: skip
    assert (np.bincount(arrays["y_train"]) == 6000).all()


def test_other_images_are_not_fashion_mnist(tmp_path: Path) -> None:
    fashion_files(tmp_path)
    with pytest.raises(DataError, match="x_train is not the published one"):
        datasets.fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: b"no gzip",
        lambda content: gzip.compress(b"\0\0"),
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    fashion_files(tmp_path)
    path = tmp_path / datasets.FASHION_MNIST_FILES["y_test"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: no IDX file"):
        datasets.fashion_mnist(tmp_path)


def test_a_missing_file_of_fashion_mnist_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        datasets.fashion_mnist(tmp_path)


def test_a_clone_around_the_working_folder_has_the_data(tmp_path, monkeypatch) -> None:
    """As after ``pip install .``, when the package lies elsewhere."""
    clone, below = tmp_path / "clone", tmp_path / "clone" / "a" / "b"
    (clone / "examples" / "data").mkdir(parents=True)
    below.mkdir(parents=True)
    (clone / "examples" / "data" / "mnist.npz").write_bytes(b"other bytes")
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "site-packages" / "cimc" / "datasets.py"))
    monkeypatch.chdir(below)
    with pytest.raises(DataError) as caught:
        datasets.mnist()
    assert caught.value.where == str(clone / "examples" / "data" / "mnist.npz")
