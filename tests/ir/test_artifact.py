"""``model.cim`` comes back as it was, or is refused."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cimc.errors import ArtifactError, RunError
from cimc.ir.artifact import DTYPES, load, save, write_safetensors
from cimc.ir.program import Program, ValueSpec
from cimc.targets.description import Target

TENSORS = {
    "initializer/w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "initializer/half": np.arange(5, dtype=ml_dtypes.bfloat16),
    "initializer/scalar": np.array(7, np.int64),
    "initializer/empty": np.zeros((0, 3), np.float64),
    "graph": np.frombuffer(b"\x08\x01", np.uint8),
}


def program() -> Program:
    value = ValueSpec(name="x", dtype="float32", shape=("batch", 4, None))
    return Program(target=Target(name="t"), inputs=(value,), outputs=(value,), tensors=TENSORS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cim") / "model.cim"
    save(program(), path)
    return path


def test_a_program_comes_back_as_it_was(saved: Path) -> None:
    back = load(saved)
    assert back.model_dump_json() == program().model_dump_json()
    assert back.tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert back.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(back.tensors[name].astype(np.float64), array.astype(np.float64))
        assert back.tensors[name].shape == array.shape


def test_tensors_are_mapped_not_read(saved: Path) -> None:
    array = load(saved).tensors["initializer/w"]
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        assert array.base is not None
        array = array.base
    assert isinstance(array, np.memmap)


def test_any_safetensors_reader_opens_it(saved: Path) -> None:
    np.testing.assert_array_equal(load_file(saved)["initializer/w"], TENSORS["initializer/w"])


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save(program(), tmp_path / "again.cim")
    assert (tmp_path / "again.cim").read_bytes() == saved.read_bytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_or_flipped_files_are_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = saved.read_bytes()
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        broken = content[:where]
    else:
        flipped = content[where] ^ (1 << data.draw(st.integers(0, 7)))
        broken = content[:where] + bytes([flipped]) + content[where + 1 :]
    path = tmp_path / "broken.cim"
    path.write_bytes(broken)
    with pytest.raises(ArtifactError):
        load(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"not a program", b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.cim"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.cim"):
        load(tmp_path / "none.cim")


def test_another_schema_version_is_named(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.cim"
    path.write_bytes(saved.read_bytes().replace(b'\\"schema_version\\": 1', b'\\"schema_version\\": 9'))
    with pytest.raises(ArtifactError, match="version 9"):
        load(path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        save(program(), tmp_path / "no" / "folder.cim")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        save(program(), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_files_have_the_bytes_that_the_safetensors_library_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save as reference

    random = np.random.default_rng(3)
    tensors = {f"{dtype.name}/é{k}": random.integers(0, 2, (2, k)).astype(dtype) for k in (0, 3) for dtype in DTYPES.values()}
    tensors["scalar"] = np.array(2.5, np.float32)
    for metadata in ({"cimc": '{"a": "ü\\n\\u0001\\""}'}, {}):
        write_safetensors(tensors, metadata, tmp_path / "t.safetensors")
        assert (tmp_path / "t.safetensors").read_bytes() == reference(tensors, metadata or None)
