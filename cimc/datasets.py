"""Public data sets as arrays, hashes checked."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import DataError
from cimc.npz import read_npz

MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

#: SHA-256 of each array's bytes, whatever file it came in. The arrays are those of the IDX files of the MNIST database.
MNIST_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}

#: Where Debian's package dataset-fashion-mnist puts its files; each is a header and then the array.
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
FASHION_MNIST_FIX = (
    "on Debian: apt-get install dataset-fashion-mnist; elsewhere fetch its four IDX files and save what "
    "cimc.datasets.fashion_mnist(FOLDER) reads of them with numpy.savez"
)
#: Names of the classes by number.
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_MNIST_SHA256 = {
    "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


@checked()
def mnist(path: str | Path | None = None) -> dict[str, NDArray[Any]]:
    """The MNIST database of handwritten digits (LeCun, Cortes, Burges; CC BY-SA 3.0).

    Args:
        path: An npz file that holds it; None: ``examples/data/mnist.npz`` of the clone that cimc was installed from in place, or
            that the working folder lies in; else a cached download.

    Returns:
        uint8 arrays ``x_train`` ``[60000, 28, 28]``, ``y_train`` ``[60000]``, ``x_test`` and ``y_test`` (10,000 images).

    Raises:
        DataError: The file is missing or is not MNIST, or it cannot be fetched.
    """
    source = Path(path) if path is not None else _in_clone("mnist.npz") or _fetch(MNIST_URL, MNIST_FILE_SHA256)
    return _checked(read_npz(source), source, MNIST_SHA256)


def on_this_machine() -> list[str]:
    """Names of the data sets that need no download: ``mnist``, ``fashion-mnist``. Their hashes are not checked here."""
    there = {
        "mnist": _in_clone("mnist.npz") is not None,
        "fashion-mnist": all((FASHION_MNIST_FOLDER / file).is_file() for file in FASHION_MNIST_FILES.values()),
    }
    return [name for name, found in there.items() if found]


def _in_clone(name: str) -> Path | None:
    """A file of ``examples/data`` in the clone around this package or around the working folder."""
    here = Path.cwd()
    files = (folder / "examples" / "data" / name for folder in (Path(__file__).parents[1], here, *here.parents))
    return next((file for file in files if file.is_file()), None)


@checked()
def fashion_mnist(folder: str | Path = FASHION_MNIST_FOLDER) -> dict[str, NDArray[Any]]:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence): articles of clothing, in the shapes of MNIST.

    Args:
        folder: Holds its four IDX files.

    Returns:
        As `mnist`.

    Raises:
        DataError: A file is missing or is not the published one.
    """
    arrays = {}
    for name, file in FASHION_MNIST_FILES.items():
        path = Path(folder) / file
        if not path.is_file():
            raise DataError("no such file", where=str(path), fix=FASHION_MNIST_FIX)
        try:
            arrays[name] = _idx(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, zlib.error, struct.error, ValueError, IndexError) as error:
            raise DataError(f"no IDX file packed with gzip: {error}", where=str(path), fix="fetch it again") from error
    return _checked(arrays, Path(folder), FASHION_MNIST_SHA256)


def _idx(content: bytes) -> NDArray[np.uint8]:
    """An array of bytes: two zeros, type, rank, a big-endian size for each axis, values."""
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 * (rank + 1)])
    return np.frombuffer(content, np.uint8, offset=4 * (rank + 1)).reshape(shape)


def _checked(arrays: dict[str, NDArray[Any]], path: Path, sha256: dict[str, str]) -> dict[str, NDArray[Any]]:
    result = {}
    for name, expected in sha256.items():
        if name not in arrays:
            raise DataError(f"holds no array {name}", where=str(path))
        result[name] = arrays[name]
        if hashlib.sha256(np.ascontiguousarray(result[name]).tobytes()).hexdigest() != expected:
            raise DataError(f"array {name} is not the published one: its SHA-256 differs", where=str(path), fix="fetch it again")
    return result


def _fetch(url: str, sha256: str) -> Path:
    """The cached download of ``url``."""
    import pooch

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", path=pooch.os_cache("cimc"), progressbar=False))
    except Exception as error:  # pooch lets through whatever its HTTP client raises
        raise DataError(f"cannot be fetched: {error}", where=url, fix="give the path of a copy: an npz file") from error
