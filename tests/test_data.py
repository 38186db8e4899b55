"""Data files: what is taken, what is refused, and that nothing half-written stays behind."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cimc.data import as_input, load_arrays, load_labelled, preprocess, read_npz, save_npz
from cimc.errors import DataError, RunError
from cimc.ir.program import Preprocessing, ValueSpec

IMAGES = ValueSpec(name="input", dtype="float32", shape=("N", 1, 4, 4))


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_uint8_images_are_scaled_and_get_a_channel(tmp_path: Path) -> None:
    x = np.arange(32, dtype=np.uint8).reshape(2, 4, 4) * 8
    loaded = load_arrays(write(tmp_path / "d.npz", x=x), [IMAGES])["input"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, x[:, None].astype(np.float32) / np.float32(255))


def test_channel_goes_last_where_the_model_has_it_last() -> None:
    spec = ValueSpec(name="input", dtype="float32", shape=("N", 4, 4, 1))
    assert as_input(np.ones((2, 4, 4), np.float32), spec, "x").shape == (2, 4, 4, 1)


def test_uint8_model_gets_uint8() -> None:
    x = np.full((1, 2), 200, np.uint8)
    assert as_input(x, ValueSpec(name="i", dtype="uint8", shape=("N", 2)), "x") is x


@pytest.mark.parametrize(("part", "value"), [("train", 1.0), ("test", 2.0)])
def test_halves_of_a_data_set(tmp_path: Path, part: Any, value: float) -> None:
    path = write(tmp_path / "d.npz", x_train=np.full((2, 1, 4, 4), 1.0), x_test=np.full((3, 1, 4, 4), 2.0))
    assert (load_arrays(path, [IMAGES], part)["input"] == value).all()


def test_several_inputs_by_name(tmp_path: Path) -> None:
    specs = [ValueSpec(name="a", dtype="float32", shape=("N", 2)), ValueSpec(name="b", dtype="int64", shape=("N",))]
    loaded = load_arrays(write(tmp_path / "d.npz", a=np.ones((3, 2)), b=np.arange(3, dtype=np.int32)), specs)
    assert (loaded["a"].dtype, loaded["b"].dtype) == (np.float32, np.int64)
    with pytest.raises(DataError, match="no array for input b"):
        load_arrays(write(tmp_path / "e.npz", a=np.ones((3, 2)), x=np.ones(3)), specs)


def test_strings_and_bfloat16() -> None:
    text = as_input(np.array(["ja", "nein"]), ValueSpec(name="s", dtype="string", shape=("N",)), "s")
    assert text.dtype == object
    assert text.tolist() == ["ja", "nein"]
    half = as_input(np.array([0.5, 2.0]), ValueSpec(name="h", dtype="bfloat16", shape=("N",)), "h")
    assert half.dtype == np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((2, 1, 4, 5), np.float32), r"shape \[2, 1, 4, 5\], but the model takes \[N, 1, 4, 4\]"),
        (np.zeros((2, 3, 4, 4), np.float32), "shape"),
        (np.zeros((4, 4), np.float32), "shape"),
        (np.zeros((0, 1, 4, 4), np.float32), "is empty"),
        (np.full((1, 1, 4, 4), np.nan, np.float32), "holds NaN"),
        (np.zeros((1, 1, 4, 4), np.int64), "is int64, but the model takes float32"),
        (np.zeros((1, 1, 4, 4), np.complex64), "is complex64"),
        (np.full((1, 1, 4, 4), "a"), "model takes float32"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(tmp_path: Path, x: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_arrays(write(tmp_path / "d.npz", x=x), [IMAGES])


def test_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit int8"):
        as_input(np.array([300]), ValueSpec(name="i", dtype="int8", shape=("N",)), "i")


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.zeros(3, np.int64), "3 labels for 2 images"),
        (np.zeros(2), "labels are float64"),
        (np.array(3), "labels are int64"),
        (np.array([0, -1]), "label -1 is negative"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, y: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_labelled(write(tmp_path / "d.npz", x=np.zeros((2, 1, 4, 4)), y=y), IMAGES)


def test_labels_belong_to_the_same_half(tmp_path: Path) -> None:
    x = np.zeros((2, 1, 4, 4))
    path = write(tmp_path / "d.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[2, 3])
    assert load_labelled(path, IMAGES)[1].tolist() == [2, 3]
    with pytest.raises(DataError, match="no array y_test"):
        load_labelled(write(tmp_path / "e.npz", x_test=x), IMAGES)


def _pickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], object))


def _truncated(path: Path) -> None:
    np.savez(path, x=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:2000])


def _lying_header(path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member.getvalue() + b"\0" * 16)


def _flipped_byte(path: Path) -> None:
    np.savez(path, x=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[4000] ^= 255
    path.write_bytes(content)


def _not_an_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "hello")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("x"), "not an npz"),
        (lambda path: path.write_bytes(b""), "not an npz"),
        (lambda path: None, "no such file"),
        (_pickled, "never unpickled"),
        (_truncated, "not an npz|damaged"),
        (_lying_header, "its header says"),
        (_flipped_byte, "damaged"),
        (_not_an_array, "damaged"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "d.npz"
    make(path)
    with pytest.raises(DataError, match=said):
        read_npz(path)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.uint64, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arrays_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, array: Any) -> None:
    path = tmp_path_factory.mktemp("npz") / "y.npz"
    save_npz(path, {"a/b": array, "file": array})
    for back in (read_npz(path), dict(np.load(path))):
        assert set(back) == {"a/b", "file"}
        assert back["file"].dtype == array.dtype
        np.testing.assert_array_equal(back["a/b"], array)


def test_outputs_of_every_onnx_type_are_written(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    outputs = {"s": np.array(["a", "bc"], object), "l": [np.ones(2), np.zeros(1)], "n": None}
    save_npz(path, outputs | {"h": np.array([1.5], ml_dtypes.bfloat16)})
    back = read_npz(path)
    assert sorted(back) == ["h", "l.0", "l.1", "s"]
    assert back["s"].tolist() == ["a", "bc"]
    assert back["h"].dtype == np.float32


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        save_npz(tmp_path / "no" / "y.npz", {"a": np.ones(1)})
    (tmp_path / "y.npz").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        save_npz(tmp_path / "y.npz", {"a": np.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["y.npz"]


def test_preprocessing_is_by_channel_and_checked() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    how = Preprocessing(scale=2.0, mean=(1.0, 3.0), std=(0.5, 4.0))
    expected = np.stack([(2 * x[:, 0] - 1) / 0.5, (2 * x[:, 1] - 3) / 4], 1)
    np.testing.assert_allclose(preprocess(x, how), expected)
    assert preprocess(x, None) is x
    with pytest.raises(DataError, match="3 values for 2 channels"):
        preprocess(x, Preprocessing(mean=(1.0, 2.0, 3.0)))


DAMAGE = {
    "dimensions beyond numpy's": {"shape": (1,) * 65},
    "terabytes": {"shape": (1 << 40,)},
    "a negative size": {"shape": (-1,)},
    "objects": {"descr": "|O"},
    "records": {"descr": [("a", "<f4")], "shape": (6,)},
    "no shape": {"shape": None},
    "no dtype": {"descr": "<f9"},
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_with_a_false_header_is_named(what: str, compression: int, tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (6,)} | DAMAGE[what]
    text = repr(header).encode()
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
    with pytest.raises(DataError) as caught:
        read_npz(path)
    assert caught.value.where == f"{path}, array x"
    assert caught.value.fix


def test_a_compressed_member_whose_bits_are_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=500))
    sound = path.read_bytes()
    for at in range(60, len(sound) - 300, 97):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
        with pytest.raises(DataError, match="damaged"):
            read_npz(path)


def test_a_member_that_claims_to_grow_beyond_what_deflate_can_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.zeros(1000))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (0xF0000000).to_bytes(4, "little")  # the size in the archive's directory
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="4026531840 bytes cannot come from"):
        read_npz(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros(2))
    with zipfile.ZipFile(path, "a") as archive, zipfile.ZipFile(path) as same, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", same.read("x.npy"))
    with pytest.raises(DataError, match="two arrays of this name"):
        read_npz(path)
