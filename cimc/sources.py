"""Where data come from: an npz file, a data set by name, a folder of images. `open_data` is the one place that decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cimc.arguments import checked, within
from cimc.datasets import FASHION_MNIST_CLASSES, fashion_mnist, mnist
from cimc.errors import CimcError, DataError
from cimc.image_folder import ImageFolder
from cimc.ir.program import ValueSpec
from cimc.npz import npz_names, read_npz


class NpzFile:
    """Arrays of an npz file by name."""

    wanted = "save x and y, or x_test and y_test"
    classes: tuple[str, ...] = ()

    def __init__(self, path: str | Path) -> None:
        self.where, self.notes = str(path), list[str]()
        self._names: frozenset[str] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Names of its arrays.

        Raises:
            DataError: It is no npz file.
        """
        if self._names is None:
            self._names = frozenset(npz_names(self.where))
        return self._names

    def read(self, names: Collection[str], spec: ValueSpec | None = None) -> dict[str, NDArray[Any]]:
        """Those of the arrays that there are.

        Raises:
            DataError: As `cimc.npz.read_npz`.
        """
        return read_npz(self.where, list(names))


class DataSet:
    """A published data set: ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

    wanted = "the set has x_train, y_train, x_test and y_test"
    names = frozenset(("x_train", "y_train", "x_test", "y_test"))

    def __init__(self, name: str) -> None:
        self.where, self.notes = name, list[str]()
        self._load, self.classes = SETS[name]
        self._arrays: dict[str, NDArray[Any]] | None = None

    def read(self, names: Collection[str], spec: ValueSpec | None = None) -> dict[str, NDArray[Any]]:
        """Those of the arrays that there are.

        Raises:
            DataError: The set is not on this machine and cannot be fetched, or it is not the published one.
        """
        if self._arrays is None:
            self._arrays = self._load()
        return {name: array for name, array in self._arrays.items() if name in names}


Source = NpzFile | DataSet | ImageFolder
#: What `open_data` takes.
Data = str | Path | Source

#: Data sets by name: what reads each, and the names of its classes.
SETS: Mapping[str, tuple[Callable[[], dict[str, NDArray[Any]]], tuple[str, ...]]] = {
    "mnist": (mnist, tuple("0123456789")),
    "fashion-mnist": (fashion_mnist, FASHION_MNIST_CLASSES),
}


@checked()
def open_data(data: Data, *, resize: tuple[int, int] | None = None) -> Source:
    """Data for training, evaluation and calibration; arrays are read when they are needed.

    Args:
        data: The path of an npz file; that of a folder of images, by class, below ``train`` and ``test`` or not; or the name of
            a data set: ``mnist``, ``fashion-mnist``. What is open already is given back.
        resize: Height and width (pixels) that images of a folder are brought to.

    Raises:
        DataError: There is no such file, it is neither an npz file nor such a folder, or a data set and a file have this name.
        CimcError: A folder of images is given, and Pillow is not installed; or ``resize`` is not for these data.
    """
    if resize is not None:
        for name, value in zip(("resize, height", "resize, width"), _pair(resize), strict=True):
            within(name, value, 1, 1 << 16, whole=True)
    if isinstance(data, str | Path) and os.path.isdir(data) and str(data) not in SETS:
        return ImageFolder(data, resize)
    if resize is not None:
        fix = "leave it out, or open the folder with it" if isinstance(data, ImageFolder) else "leave it out"
        raise CimcError("resize (--resize) is for a folder of images", where=getattr(data, "where", str(data)), fix=fix)
    if not isinstance(data, str | Path):
        return data
    if str(data) in SETS:
        if os.path.exists(data):
            fix = f"give the file's whole path: {os.path.abspath(data)}"
            raise DataError("a data set has this name, and so has a file here", where=str(data), fix=fix)
        return DataSet(str(data))
    if not os.path.exists(data) and not Path(data).suffix:
        fix = f"an npz file, a folder of images, or one of the data sets {', '.join(SETS)}"
        raise DataError("no such file", where=str(data), fix=fix)
    return NpzFile(data)


def is_data(given: Any) -> bool:
    """Whether an argument for images is what `open_data` takes."""
    return isinstance(given, Data)


def check_alone(data: Data, labels: Any, where: str) -> None:
    """Refuse labels beside data, which have their own.

    Raises:
        DataError: There are labels.
    """
    if labels is not None:
        name = data if isinstance(data, str | Path) else data.where
        raise DataError(f"labels beside the data {name}, which have their own", where=where, fix="leave the labels out")


def _pair(resize: Any) -> tuple[Any, Any]:
    if len(resize) != 2:
        raise CimcError("resize is no pair of height and width", where="open_data", fix="for example resize=(32, 32)")
    return resize[0], resize[1]
