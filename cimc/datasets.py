"""Public data sets as arrays, hashes checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.data import read_npz
from cimc.errors import DataError

MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

#: SHA-256 of each array's bytes, whatever file it came in. The arrays are those of the IDX files of the MNIST database.
MNIST_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}


def mnist(path: str | Path | None = None) -> dict[str, NDArray[Any]]:
    """The MNIST database of handwritten digits (LeCun, Cortes, Burges; CC BY-SA 3.0).

    Args:
        path: An npz file that holds it; None: the copy in this repository's ``examples/data``, else a cached download.

    Returns:
        uint8 arrays ``x_train`` ``[60000, 28, 28]``, ``y_train`` ``[60000]``, ``x_test`` and ``y_test`` (10,000 images).

    Raises:
        DataError: The file is missing or is not MNIST, or it cannot be fetched.
    """
    bundled = Path(__file__).parents[1] / "examples" / "data" / "mnist.npz"
    source = Path(path) if path is not None else bundled if bundled.is_file() else _fetch(MNIST_URL, MNIST_FILE_SHA256)
    return _checked(source, MNIST_SHA256)


def _checked(path: Path, sha256: dict[str, str]) -> dict[str, NDArray[Any]]:
    arrays = read_npz(path)
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
        raise DataError(f"cannot be fetched: {error}", where=url, fix="give the path of a copy") from error
