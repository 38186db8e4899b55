"""No command's output takes the place of what it reads, or of what is no plain file, and it says so before the work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import cimc, small_model


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("small.onnx", "data.npz", "images.npz", "small.cim"):
        shutil.copy(made / name, tmp_path)
    assert cimc("export", tmp_path / "small.cim", "-o", tmp_path / "small.cimg").code == 0
    np.savez(tmp_path / "faults.npz", cells=np.zeros((0, 4), np.int64))
    onnx.save(
        small_model(np.random.default_rng(5)),
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = {
    "compile": "compile small.onnx --calibration images.npz -o",
    "compile external data": "compile apart.onnx -o",
    "compile --emit": "compile small.onnx --emit text -o",
    "run": "run small.cim --input data.npz --check small.onnx --output",
    "train": "train small.onnx --data data.npz --epochs 1 -o",
    "train --onnx": "train small.onnx --data data.npz --epochs 1 -o t.cim --onnx",
    "export": "export small.cim --chip bulk-rram-256 --fault-map faults.npz --calibration images.npz -o",
    "image program": "image program small.cimg --fault-map faults.npz -o",
    "image run": "image run small.cimg --input data.npz --calibration images.npz --check small.onnx -o",
}
commands = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


@commands
def test_an_output_that_is_an_input_is_refused(place: Path, command: str) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    words = command.split()
    read = [word for word in words if (place / word).is_file()]
    if "apart.onnx" in read:
        read.append("w.bin")
    assert read
    for name in read:
        (place / "link").symlink_to(name)
        os.link(place / name, place / "hard")
        for output in (name, "link", "hard"):
            done = cimc(*words, output)
            assert (done.code, done.out) == (2, ""), (name, done.err)
            assert "is an input" in done.err
        (place / "link").unlink()
        (place / "hard").unlink()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@commands
def test_what_is_no_plain_file_is_refused_and_stays(place: Path, command: str) -> None:
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    for output in ("fifo", "folder", "/dev/null", "-"):
        done = cimc(*command.split(), output)
        assert (done.code, done.out) == (2, ""), done.err
        assert f"{output}: cannot write: it is" in done.err
    assert (place / "fifo").is_fifo()
    assert not (place / "-").exists()


@commands
@pytest.mark.parametrize("output", ["", "n" * 300, "small.onnx/below"], ids=["empty", "long", "below a file"])
def test_a_name_that_no_file_can_have_is_told(place: Path, command: str, output: str) -> None:
    before = sorted(path.name for path in place.iterdir())
    done = cimc(*command.split(), output)
    assert done.code in (1, 2)
    assert "cannot write" in done.err
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.parametrize("name", [".", "/", "n" * 300], ids=["folder", "root", "long"])
def test_an_input_that_is_no_file_is_told(place: Path, name: str) -> None:
    data, epochs = "--data data.npz", "--data data.npz --epochs 1 -o out"
    for command in (
        "compile NAME", "compile NAME -o out", "compile small.onnx --calibration NAME", "compile small.onnx --target ./NAME",
        "run NAME --input data.npz --output out", "run small.cim --input NAME --output out", "export NAME", "inspect NAME",
        "run small.cim --input data.npz --output out --check NAME", f"evaluate NAME {data}", "evaluate small.cim --data NAME",
        "image run NAME --input data.npz -o out", "image info NAME", "image verify NAME", "targets validate ./NAME",
        "compare small.cim NAME --input data.npz", "export small.cim --fault-map NAME -o out", f"calibrate NAME {data} -o out",
        f"train NAME {epochs}", "train small.onnx --data NAME --epochs 1 -o out", f"train small.onnx {epochs} --plugin NAME",
    ):  # fmt: skip
        done = cimc(*(word.replace("NAME", name) for word in command.split()))
        assert done.code in (1, 2), command
        assert done.out == "", command
        assert "error: " in done.err, command


@commands
def test_a_missing_folder_is_told_before_the_work(place: Path, command: str) -> None:
    for path in place.glob("*.onnx"):  # were they read, the error would be another
        path.write_bytes(b"")
    done = cimc(*command.split(), "no/file")
    assert done.code == 1
    assert "there is no folder" in done.err


def test_outputs_of_one_command_are_different_files(place: Path) -> None:
    (place / "t.cim").write_bytes(b"")
    (place / "link").symlink_to("t.cim")
    done = cimc("train", "small.onnx", "--data", "data.npz", "--epochs", 1, "-o", "t.cim", "--onnx", "link")
    assert (done.code, "two outputs have one name" in done.err) == (2, True)
    done = cimc("train", "small.onnx", "--data", "data.npz", "--epochs", 1, "-o", "t.cim", "--onnx", "t.metrics.jsonl")
    assert (done.code, "two outputs have one name" in done.err) == (2, True)
    done = cimc("export", "small.cim", "-o", "m.bin", "--flash", "bin")
    assert (done.code, "two outputs have one name" in done.err) == (2, True)


def test_a_result_is_written_through_a_link(place: Path) -> None:
    (place / "real.cim").write_bytes(b"")
    (place / "real.cim").chmod(0o600)
    (place / "m.cim").symlink_to("real.cim")
    assert cimc("compile", "small.onnx", "-o", "m.cim").code == 0
    assert (place / "m.cim").is_symlink()
    assert (place / "real.cim").stat().st_mode & 0o777 == 0o600
    assert cimc("inspect", "real.cim").code == 0


def test_a_checkpoint_folder_that_cannot_be_is_told_before_the_work(place: Path) -> None:
    (place / "small.onnx").write_bytes(b"")
    for option in ("--checkpoint", "--tensorboard"):
        done = cimc("train", "small.onnx", "--data", "data.npz", "--epochs", 1, "-o", "t.cim", option, "data.npz/run")
        assert (done.code, "no folder" in done.err) == (1, True)


def test_what_a_target_extends_is_an_input(place: Path) -> None:
    (place / "a").mkdir()
    (place / "a" / "base.yaml").write_text("extends: ideal\n")
    (place / "own.yaml").write_text("extends: a/base.yaml\n")
    for command in ("compile small.onnx --target own.yaml -o", "export small.cim --chip own.yaml -o"):
        for output in ("a/base.yaml", "own.yaml"):
            done = cimc(*command.split(), output)
            assert (done.code, "is an input" in done.err) == (2, True), done.err
    assert (place / "a" / "base.yaml").read_text() == "extends: ideal\n"
