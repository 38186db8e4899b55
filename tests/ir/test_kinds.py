"""A file of the wrong kind is refused by every loader with its kind and the command that takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.app import app
from cimc.data import read_npz
from cimc.errors import CimcError
from cimc.ir.kinds import kind_of

EXAMPLES = Path(__file__).parents[2] / "examples"
LOADERS = {
    "program": cimc.load,
    "model": lambda path: cimc.compile(path, target="ideal"),
    "image": cimc.load_image,
    "data": read_npz,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A file of each kind, under names that tell nothing."""
    folder = tmp_path_factory.mktemp("kinds")
    program = cimc.compile(EXAMPLES / "lenet_mnist" / "lenet_init.onnx", target="ideal")
    program.save(folder / "a")
    shutil.copy(EXAMPLES / "lenet_mnist" / "lenet.onnx", folder / "b.onnx")
    calibrated = cimc.compile(EXAMPLES / "lenet_mnist" / "lenet.onnx", target="bulk-rram")
    cimc.export_image(calibrated, "bulk-rram").save(folder / "c")
    np.savez(folder / "d.npz", x=np.zeros((1, 1, 28, 28), np.float32), y=np.zeros(1, np.int64))
    (folder / "d.npz").rename(folder / "d")
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=2, init="weights")
    trainer.fit(np.zeros((4, 1, 28, 28), np.float32), np.arange(4), epochs=1, checkpoint=folder / "run")
    (folder / "e.yaml").write_text("extends: ideal\n")
    return {
        "program": folder / "a",
        "model": folder / "b.onnx",
        "image": folder / "c",
        "data": folder / "d",
        "checkpoint": folder / "run" / "checkpoint.safetensors",
        "target": folder / "e.yaml",
    }


def test_each_kind_is_recognised(files, tmp_path) -> None:
    assert {kind: kind_of(path) for kind, path in files.items()} == {kind: kind for kind in files}
    (tmp_path / "empty").touch()
    assert kind_of(tmp_path / "empty") is kind_of(tmp_path) is kind_of(tmp_path / "absent") is None


@pytest.mark.parametrize("wanted", LOADERS)
@pytest.mark.parametrize("given", ["program", "model", "image", "data", "checkpoint", "target"])
def test_a_loader_refuses_every_other_kind(files, wanted: str, given: str) -> None:
    if given == wanted:
        LOADERS[wanted](files[given])
        return
    with pytest.raises(CimcError, match=r"this is an? .*, not an? ") as caught:
        LOADERS[wanted](files[given])
    assert caught.value.exit_code == 2
    assert caught.value.fix


@pytest.mark.parametrize("command", ["run", "evaluate", "inspect", "export", "compare"])
def test_commands_given_a_model_say_to_compile_it(files, command: str, tmp_path) -> None:
    more = {
        "run": ["--input", files["data"], "-o", tmp_path / "y.npz"],
        "evaluate": ["--data", files["data"]],
        "inspect": [],
        "export": ["--chip", "bulk-rram", "-o", tmp_path / "c.cimg"],
        "compare": [files["model"], "--input", files["data"]],
    }[command]
    done = CliRunner().invoke(app, [command, str(files["model"]), *map(str, more)])
    assert done.exit_code == 2
    assert "this is an ONNX model, not a compiled program" in done.stderr
    assert "cimc compile MODEL.onnx" in done.stderr
