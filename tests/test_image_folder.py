"""Folders of images and data sets by name give what an npz file of the same images gives; what is unclear is refused."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc import datasets, sources
from cimc.data import load_arrays, load_labelled
from cimc.errors import CimcError, DataError
from cimc.ir.program import ValueSpec
from tests.cli.conftest import cimc as command
from tests.training import small

Image = pytest.importorskip("PIL.Image")

GREY = ValueSpec(name="x", dtype="float32", shape=("N", 1, 6, 6))
COLOUR = ValueSpec(name="x", dtype="float32", shape=("N", 3, 6, 6))
LAST = ValueSpec(name="x", dtype="float32", shape=("N", 6, 6, 3))
Array = np.ndarray[Any, Any]


def pixels(count: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def save(path: Path, image: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def folder(root: Path, images: Array, labels: Array, names: tuple[str, ...] = ("bird", "cat", "dog")) -> Path:
    """A file for each image, in folders by class; the arrays in the order in which the folder is read."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        save(root / names[label] / f"{number:04}.png", image)
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return folder(tmp_path / "photos", pixels(6, 6, 6), np.array([0, 0, 1, 1, 2, 2]))


def test_grey_files_are_the_arrays(classes: Path) -> None:
    source = cimc.open_data(classes)
    x, y = load_labelled(source, GREY)
    np.testing.assert_array_equal(x, pixels(6, 6, 6)[:, None].astype(np.float32) / np.float32(255))
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.classes == ("bird", "cat", "dog")
    assert source.notes == ["classes, by sorted names: 0 bird, 1 cat, 2 dog"]


@pytest.mark.parametrize("spec", [COLOUR, LAST])
def test_colour_goes_where_the_model_has_its_channels(spec: ValueSpec, tmp_path: Path) -> None:
    images = pixels(3, 6, 6, 3)
    x, _ = load_labelled(folder(tmp_path / "c", images, np.arange(3)), spec)
    wanted = images if spec is LAST else images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(x, wanted.astype(np.float32) / np.float32(255))


def test_halves_are_apart_and_share_their_classes(tmp_path: Path) -> None:
    folder(tmp_path / "train", pixels(3, 6, 6), np.arange(3))
    folder(tmp_path / "test", pixels(2, 6, 6, seed=1), np.array([0, 2]))
    source = cimc.open_data(tmp_path)
    assert source.names == {"x_train", "y_train", "x_test", "y_test"}
    x, y = load_labelled(source, GREY)
    np.testing.assert_array_equal(x[:, 0], pixels(2, 6, 6, seed=1).astype(np.float32) / np.float32(255))
    assert y.tolist() == [0, 2]  # numbered as in train: test has no cat
    assert len(load_arrays(source, [GREY], "train")["x"]) == 3
    save(tmp_path / "test" / "emu" / "0.png", pixels(6, 6))
    with pytest.raises(DataError, match="test has the class emu, which train has not"):
        cimc.open_data(tmp_path)


def test_train_and_test_may_be_classes(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        save(tmp_path / name / "0.png", pixels(6, 6))
    assert cimc.open_data(tmp_path).classes == ("bus", "train")


def test_grey_and_colour_become_what_the_model_takes_and_it_is_said(tmp_path: Path) -> None:
    grey, colour = pixels(6, 6), pixels(6, 6, 3)
    save(tmp_path / "a" / "grey.png", grey)
    save(tmp_path / "a" / "same.png", np.repeat(grey[..., None], 3, 2))
    save(tmp_path / "b" / "colour.png", colour)
    source = cimc.open_data(tmp_path)
    x = source.read(["x"], GREY)["x"][:, 0]
    np.testing.assert_array_equal(x[:2], np.stack([grey, grey]))
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(x[2] - luma).max() <= 1
    assert "made grey for the model: 1 of 3 images, such as colour.png" in source.notes
    three = source.read(["x"], COLOUR)["x"]
    np.testing.assert_array_equal(three[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(three[2], colour.transpose(2, 0, 1))
    assert "grey images get three equal channels: 1 of 3" in source.notes


def deep_png(colours: int) -> bytes:
    """A PNG of 16 bits a channel, made by hand: Pillow would read one of three channels as 8 bits without a word."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 6, 6, 16, 2 if colours == 3 else 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(12 * colours) for _ in range(6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (deep_png(1), "has more than 8 bits a channel"),
        (deep_png(3), "has more than 8 bits a channel"),
        (b"no image at all", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_file_that_is_no_8_bit_image_is_named(content: bytes, said: str, classes: Path) -> None:
    (classes / "cat" / "odd.png").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_labelled(classes, GREY)
    assert caught.value.where.endswith("odd.png")


def test_a_cut_file_is_named(classes: Path) -> None:
    path = save(classes / "dog" / "cut.png", pixels(6, 6))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_labelled(classes, GREY)
    assert caught.value.where.endswith("cut.png")


def test_transparent_pixels_are_refused_and_an_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    image = pixels(6, 6, 4)
    image[..., 3] = 255
    path = save(tmp_path / "a" / "0.png", image)
    np.testing.assert_array_equal(cimc.open_data(tmp_path).read(["x"], COLOUR)["x"][0], image[..., :3].transpose(2, 0, 1))
    image[2, 3, 3] = 254
    save(path, image)
    with pytest.raises(DataError, match="has transparent pixels"):
        load_labelled(tmp_path, COLOUR)


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    colours = pixels(4, 3)
    indexed = Image.fromarray(pixels(6, 6) % 4, "L").convert("P")
    indexed.putdata((pixels(6, 6) % 4).ravel().tolist())
    indexed.putpalette(colours.ravel().tolist())
    (tmp_path / "a").mkdir()
    indexed.save(tmp_path / "a" / "0.png")
    found = cimc.open_data(tmp_path).read(["x"], LAST)["x"][0]
    np.testing.assert_array_equal(found, colours[pixels(6, 6) % 4])


def test_sizes_that_differ_need_a_resize(classes: Path) -> None:
    flat = np.full((9, 12), 77, np.uint8)
    save(classes / "cat" / "wide.png", flat)
    with pytest.raises(DataError, match=r"is 9x12, but 0000\.png is 6x6") as caught:
        load_labelled(classes, GREY)
    assert "--resize 6x6" in (caught.value.fix or "")
    x, _ = load_labelled(cimc.open_data(classes, resize=(6, 6)), GREY)
    np.testing.assert_array_equal(x[4, 0], np.full((6, 6), np.float32(77) / np.float32(255)))  # an even image stays even
    np.testing.assert_array_equal(x[0, 0], pixels(6, 6, 6)[0].astype(np.float32) / np.float32(255))  # this one has the size


def test_another_size_than_the_model_takes_says_the_way_out(classes: Path) -> None:
    spec = ValueSpec(name="x", dtype="float32", shape=("N", 1, 28, 28))
    with pytest.raises(DataError, match="images are 6x6, the model takes 28x28") as caught:
        load_labelled(classes, spec)
    assert "resize=(28, 28)" in (caught.value.fix or "")


def test_names_sort_as_text_and_that_is_said(tmp_path: Path) -> None:
    for name in map(str, range(11)):
        save(tmp_path / name / "0.png", pixels(6, 6))
    source = cimc.open_data(tmp_path)
    assert source.classes[:3] == ("0", "1", "10")
    assert any(text.startswith("class 10 has number 2") for text in source.notes)


def test_two_numbers_out_of_order_are_said(tmp_path: Path) -> None:
    for name in ("9", "10"):
        save(tmp_path / name / "0.png", pixels(6, 6))
    assert any(text.startswith("class 10 has number 0") for text in cimc.open_data(tmp_path).notes)


def test_a_folder_that_cannot_be_listed_is_told(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("cimc.image_folder.os.scandir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        cimc.open_data(classes)


def test_what_is_left_out_is_said(classes: Path) -> None:
    (classes / "cat" / "notes.txt").write_text("a cat")
    (classes / ".cache").mkdir()
    (classes / "emu").mkdir()
    source = cimc.open_data(classes)
    assert source.classes == ("bird", "cat", "dog", "emu")
    assert source.notes[1:] == ["classes without images: emu", "files left out, as they are not png or jpg: 1 (.txt)"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "holds no images of classes"),
        (lambda root: save(root / "0.png", pixels(6, 6)), "holds no images of classes"),
        (lambda root: (root / "cat").mkdir(), "holds no images of classes"),
        (lambda root: save(root / "cat" / "old" / "0.png", pixels(6, 6)) and save(root / "cat" / "0.png", pixels(6, 6)),
         "a folder lies in the folder of a class"),
        (lambda root: [save(root / part / "cat" / "0.png", pixels(6, 6)) for part in ("train", "extra")], "it holds extra"),
    ],
)  # fmt: skip
def test_another_folder_is_refused(make: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        cimc.open_data(tmp_path)


def test_without_pillow_the_extra_is_named(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(CimcError, match=re.escape("pip install 'cimc[images]'")):
        cimc.open_data(classes)


def test_resize_is_for_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=pixels(2, 6, 6))
    with pytest.raises(CimcError, match="resize"):
        cimc.open_data(tmp_path / "d.npz", resize=(3, 3))
    with pytest.raises(CimcError, match="resize"):
        cimc.open_data(tmp_path, resize=(0, 3))


def test_names_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x_train": pixels(4, 28, 28), "y_train": np.arange(4), "x_test": pixels(2, 28, 28), "y_test": np.arange(2)}
    monkeypatch.setattr(sources, "SETS", {"mnist": (lambda: arrays, ()), "fashion-mnist": (datasets.fashion_mnist, ())})
    monkeypatch.chdir(tmp_path)
    spec = ValueSpec(name="x", dtype="float32", shape=("N", 1, 28, 28))
    assert len(load_labelled("mnist", spec)[0]) == 2
    assert len(load_arrays("mnist", [spec])["x"]) == 4
    with pytest.raises(DataError, match="no such file") as caught:
        load_labelled("minst", spec)
    assert "mnist, fashion-mnist" in (caught.value.fix or "")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match="a data set has this name, and so has a file here"):
        load_labelled("mnist", spec)


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, and the same uint8 images as a folder and as an npz file, in the same order."""
    root = tmp_path_factory.mktemp("same")
    onnx.save(small.model(), root / "m.onnx")
    held = {}
    for seed, part in enumerate(("train", "test")):
        x, y = small.data(96, seed)
        order = np.argsort(y, kind="stable")
        images, labels = (x[order, 0] * 255).round().astype(np.uint8), y[order]
        folder(root / "photos" / part, images, labels)
        held |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(root / "d.npz", **held)
    return root / "m.onnx", root / "photos", root / "d.npz"


def test_every_command_takes_a_folder_as_an_npz(trained_on: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, photos, npz = trained_on
    program = tmp_path / "m.cim"
    assert command("compile", model, "--calibration", npz, "-o", program).code == 0
    commands: list[tuple[object, ...]] = [
        ("compile", model, "-o", tmp_path / "n.cim", "--calibration"),
        ("evaluate", program, "--data"),
        ("evaluate", program, "--chips", 2, "--fit", 32, "--data"),
        ("calibrate", program, "-o", tmp_path / "f.cim", "--images", 32, "--data"),
        ("explain", program, "--samples", 4, "--data"),
        ("train", model, "--epochs", 1, "-o", tmp_path / "t.cim", "--data"),
    ]
    for words in commands:
        found = []
        for data in (npz, photos):
            done = command(*words, data, "--json")
            assert done.code == 0, (words[0], done.err)
            told = done.json
            about = told.pop("calibration" if words[0] == "compile" else "data")
            assert about["classes"] == (["bird", "cat", "dog"] if data == photos else None)
            for row in told.get("epochs", ()):
                row.pop("images_per_second"), row.pop("seconds")
            found.append(told)
        assert found[0] == found[1], words[0]


def test_images_of_chips_take_a_folder_as_an_npz(trained_on: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, photos, npz = trained_on
    program, image = tmp_path / "m.cim", tmp_path / "m.cimg"
    assert command("compile", model, "--calibration", npz, "-o", program).code == 0
    found = []
    for data in (npz, photos):
        done = command("export", program, "--chip", "bulk-rram-256", "--calibration", data, "-o", image, "--json")
        assert done.code == 0, done.err
        found.append({key: value for key, value in done.json.items() if key != "data"})
        words = ("image", "run", image, "--input", data, "--calibration", data, "-o", tmp_path / f"{data.name}.out.npz")
        assert command(*words).code == 0
    assert found[0] == found[1]
    one, other = (np.load(tmp_path / f"{data.name}.out.npz")["y"] for data in (npz, photos))
    np.testing.assert_array_equal(one, other)


def test_python_takes_a_folder_as_arrays(trained_on: tuple[Path, Path, Path]) -> None:
    model, photos, npz = trained_on
    held = dict(np.load(npz))
    program = cimc.compile(model, calibration=photos)
    one = cimc.evaluate(program, photos, chips=2)
    other = cimc.evaluate(program, held["x_test"], held["y_test"], chips=2)
    assert one.to_dict() == other.to_dict()
    with pytest.raises(DataError, match="labels beside the data"):
        cimc.evaluate(program, photos, held["y_test"], chips=2)
    weights = []
    for x, y, validation in ((photos, None, photos), (held["x_train"], held["y_train"], (held["x_test"], held["y_test"]))):
        trainer = cimc.Trainer(cimc.Chip(program), batch_size=16)
        history = trainer.fit(x, y, epochs=1, validation=validation)
        weights.append((trainer.weights()["w1"], history.rows[-1]["validation_accuracy"]))
    np.testing.assert_array_equal(weights[0][0], weights[1][0])
    assert weights[0][1] == weights[1][1] is not None
