"""Folders of images: a folder for each class, below ``train`` and ``test`` or by themselves. Pillow reads the files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError, DataError
from cimc.ir.program import ValueSpec

#: Endings of the files that are read; the others are counted in a note.
_ENDINGS = (".png", ".jpg", ".jpeg")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_EXIF_ORIENTATION = 0x0112

Size = tuple[int, int]


class ImageFolder:
    """Images by class, as arrays ``x`` and ``y``; of a folder with ``train`` and ``test``, as ``x_train``, ``y_train`` and so on.

    Classes are numbered in the order of their sorted names (of code points: "10" comes before "2"), as torchvision does. Images
    are uint8, ``[images, height, width]`` or with the axis of channels that the model has.

    Args:
        path: The folder.
        resize: Height and width (pixels) that all images are brought to, bilinear, without regard to their aspect; None: all
            must have one size.

    Raises:
        DataError: The folder holds no images of classes, or classes that differ between ``train`` and ``test``.
        CimcError: Pillow is not installed.
    """

    wanted = "images lie in FOLDER/CLASS/, or in FOLDER/train/CLASS/ and FOLDER/test/CLASS/"

    def __init__(self, path: str | Path, resize: Size | None = None) -> None:
        self.where, self.resize = str(path), resize
        self.notes: list[str] = []
        self._left_out: Counter[str] = Counter()
        self._pillow = _pillow(self.where)
        self._read: dict[tuple[str, int | None, int | None], NDArray[np.uint8]] = {}
        try:
            self._list(Path(path))
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
            raise DataError(what, where=str(error.filename or path), fix="a folder that you may read") from None

    def _list(self, path: Path) -> None:
        """Find the parts, the classes and their files."""
        below = _folders(path)
        parts = [name for name in ("train", "test") if any(map(_holds_images, _folders(path / name)))]
        if parts and (other := [folder.name for folder in below if folder.name not in parts]):
            what = f"beside {' and '.join(parts)} it holds {', '.join(other[:5])}"
            raise DataError(what, where=self.where, fix="a folder with train and test holds nothing else; or give one of them")
        self._files = {f"_{name}": self._by_class(path / name) for name in parts} or {"": self._by_class(path)}
        first, *others = self._files.values()
        self.classes: tuple[str, ...] = tuple(sorted(first))
        for part in others:
            if unknown := sorted(set(part) - set(first)):
                what = f"test has the class {unknown[0]}, which train has not"
                raise DataError(what, where=self.where, fix="give both the same classes")
        self.names = frozenset(f"{letter}{part}" for part in self._files for letter in "xy")
        self._tell_classes()

    def read(self, names: Collection[str], spec: ValueSpec | None = None) -> dict[str, NDArray[Any]]:
        """Those of the arrays that there are, images with the channels of the model's input.

        Raises:
            DataError: A file is damaged, is no 8-bit image without transparent pixels, or has another size than the others or
                than the model takes.
        """
        found: dict[str, NDArray[Any]] = {}
        for part, files in self._files.items():
            if f"x{part}" in names:
                found[f"x{part}"] = self._images(part, spec)
            if f"y{part}" in names:
                counts = [len(files.get(name, ())) for name in self.classes]
                found[f"y{part}"] = np.repeat(np.arange(len(counts)), counts)
        return found

    def _by_class(self, folder: Path) -> dict[str, list[Path]]:
        found = {}
        for one in _folders(folder):
            entries = sorted((entry for entry in one.iterdir() if not entry.name.startswith(".")), key=lambda path: path.name)
            if inner := next((entry for entry in entries if entry.is_dir()), None):
                raise DataError("a folder lies in the folder of a class", where=str(inner), fix=self.wanted)
            found[one.name] = [entry for entry in entries if entry.suffix.lower() in _ENDINGS]
            self._left_out.update(entry.suffix.lower() or "no ending" for entry in entries if entry not in set(found[one.name]))
        if not any(found.values()):
            raise DataError("holds no images of classes", where=str(folder), fix=self.wanted)
        return found

    def _tell_classes(self) -> None:
        shown = ", ".join(f"{number} {name}" for number, name in enumerate(self.classes[:10]))
        more = f", … ({len(self.classes)} in all)" if len(self.classes) > 10 else ""
        self.notes.append(f"classes, by sorted names: {shown}{more}")
        digits = [name for name in self.classes if name.isdecimal()]
        if len(digits) == len(self.classes) and sorted(digits, key=int) != digits:
            number = next(n for n, name in enumerate(sorted(digits, key=int)) if name != digits[n])
            self.notes.append(
                f"class {digits[number]} has number {number}: names are sorted as text (02 comes before 10, 2 does not)"
            )
        if empty := [f"{part[1:]} " * bool(part) + name for part, own in self._files.items() for name in own if not own[name]]:
            self.notes.append(f"classes without images: {', '.join(empty)}")
        for ending, count in sorted(self._left_out.items()):
            self.notes.append(f"files left out, as they are not png or jpg: {count} ({ending})")

    def _images(self, part: str, spec: ValueSpec | None) -> NDArray[np.uint8]:
        channels, axis = _channels(spec, self.where)
        key = part, channels, axis
        if key not in self._read:
            files = [file for name in self.classes for file in self._files[part].get(name, ())]
            heads = [self._head(file) for file in files]
            size, held = self._one_size(files, [head[0] for head in heads], spec), {head[1] for head in heads}
            count = channels or max(held)
            images = np.empty((len(files), *size) if count == 1 else (len(files), *size, 3), np.uint8)
            lost = [file for number, file in enumerate(files) if self._decode(file, size, images[number])]
            if lost:
                self.notes.append(f"made grey for the model: {len(lost)} of {len(files)} images, such as {lost[0].name}")
            if count == 3 and 1 in held:
                self.notes.append(f"grey images get three equal channels: {sum(h[1] == 1 for h in heads)} of {len(files)}")
            if turned := sum(head[2] for head in heads):
                self.notes.append(f"images whose EXIF orientation is not applied, as torchvision does: {turned} of {len(files)}")
            if axis is not None and count == 1:
                images = np.expand_dims(images, axis)
            elif axis == 1:
                images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            self._read[key] = images
        return self._read[key]

    def _head(self, file: Path) -> tuple[Size, int, bool]:
        """Height and width, 1 for grey or 3 for colour, and whether an EXIF orientation asks for a turn; pixels are not read."""
        try:
            with file.open("rb") as raw:
                start = raw.read(26)
            with self._pillow.open(file) as image:
                mode, (width, height) = image.mode, image.size
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # cameras add previews to a JPEG
                turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
        except Exception as error:  # Pillow lets through what its decoders raise
            raise _damaged(file, error) from error
        if mode.startswith(("I", "F")) or (start.startswith(_PNG_MAGIC) and start[24] == 16):
            raise DataError("has more than 8 bits a channel", where=str(file), fix="convert it to 8 bits, or save arrays as npz")
        if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise DataError(f"has the colour space {mode}", where=str(file), fix="convert it to RGB or to grey")
        if frames > 1:
            raise DataError(f"holds {frames} images", where=str(file), fix="save each as a file of its own")
        return (height, width), 1 if mode in ("1", "L", "LA") else 3, turned

    def _one_size(self, files: list[Path], sizes: list[Size], spec: ValueSpec | None) -> Size:
        if self.resize is not None:
            return self.resize
        other = next((number for number, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None:
            what = f"is {_words(sizes[other])}, but {files[0].name} is {_words(sizes[0])}"
            fix = f"--resize {_words(sizes[0])} (cimc.open_data(…, resize={sizes[0]})) brings all to one size"
            raise DataError(what, where=str(files[other]), fix=fix)
        taken = _taken(spec)
        if taken is not None and any(isinstance(n, int) and n != m for n, m in zip(taken, sizes[0], strict=True)):
            wanted = tuple(n if isinstance(n, int) else m for n, m in zip(taken, sizes[0], strict=True))
            what = f"images are {_words(sizes[0])}, the model takes {_words(wanted)}"
            raise DataError(what, where=self.where, fix=f"--resize {_words(wanted)} (cimc.open_data(…, resize={wanted}))")
        return sizes[0]

    def _decode(self, file: Path, size: Size, into: NDArray[np.uint8]) -> bool:
        """Put an image in its place; whether colour was lost."""
        try:
            with self._pillow.open(file) as opened:
                grey, see_through = opened.mode in ("1", "L", "LA"), opened.has_transparency_data
                image = opened.convert(("L" if grey else "RGB") if not see_through else "RGBA")
        except Exception as error:
            raise _damaged(file, error) from error
        if see_through:
            if np.asarray(image)[..., 3].min() < 255:
                raise DataError("has transparent pixels", where=str(file), fix="put it on a background, without an alpha channel")
            image = image.convert("L" if grey else "RGB")
        lost = into.ndim == 2 and not grey and bool(np.ptp(np.asarray(image), axis=2).any())
        image = image.convert("L" if into.ndim == 2 else "RGB")
        if (image.height, image.width) != size:
            image = image.resize((size[1], size[0]), self._pillow.Resampling.BILINEAR)
        into[:] = np.asarray(image)
        return lost


def _pillow(where: str) -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError:
        raise CimcError("a folder of images needs Pillow", where=where, fix="pip install 'cimc[images]'") from None


def _folders(path: Path) -> list[Path]:
    """Those in a folder, sorted by name, hidden ones left out."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted((Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")), key=lambda path: path.name)


def _holds_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in _ENDINGS for entry in folder.iterdir())


def _channels(spec: ValueSpec | None, where: str) -> tuple[int | None, int | None]:
    """How many channels the model takes and along which axis; None: not known; no such axis."""
    shape = None if spec is None else spec.shape
    if shape is None:
        return None, 1
    if len(shape) != 4:
        return 1, None
    sizes: Mapping[int, Any] = {1: shape[1], -1: shape[-1]}
    if known := [(size, axis) for axis, size in sizes.items() if size in (1, 3)]:
        return known[0]
    if isinstance(shape[1], int) and isinstance(shape[-1], int):
        what = f"the model takes {list(shape)}, and images have 1 or 3 channels"
        raise DataError(what, where=where, fix="save arrays of the model's shape as npz")
    return None, 1


def _taken(spec: ValueSpec | None) -> tuple[int | str | None, ...] | None:
    """Height and width that the model takes."""
    shape = None if spec is None else spec.shape
    if shape is None or len(shape) not in (3, 4):
        return None
    return shape[1:3] if len(shape) == 3 or (shape[1] not in (1, 3) and shape[-1] in (1, 3)) else shape[2:]


def _words(size: Collection[int]) -> str:
    return "x".join(map(str, size))


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read: {' '.join(str(error).split())[:200]}", where=str(file), fix="replace it, or take it out")
