"""`cimc export` and `cimc image`, from a compiled model to another die."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc as api
from tests.cli.conftest import cimc


@pytest.fixture(scope="module")
def image(made: Path) -> Path:
    done = cimc("export", made / "small.cim", "--chip", "bulk-rram-256", "-o", made / "small.cimg")
    assert done.code == 0, done.err
    return made / "small.cimg"


def test_export_says_what_it_made(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.cimg"
    done = cimc("export", made / "small.cim", "-c", "bulk-rram-256", "-o", out, "--flash", "bin", "--flash", "c", "--json")
    assert done.code == 0, done.err
    assert done.json["target"] == "bulk-rram-256"
    assert done.json["sha256"] == api.load_image(out).sha256
    assert (tmp_path / "m.bin").read_bytes().startswith(out.read_bytes())
    assert "static_assert" in (tmp_path / "m.h").read_text()
    assert "input scales kept of: conv, dense" in done.err


def test_export_refuses_and_leaves_nothing(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.cimg"
    settings = ("--set", "array.rows=9", "--set", "array.tiles_per_chip=1", "--chips", 1)
    done = cimc("export", made / "small.cim", "-c", "bulk-rram", *settings, "-o", out)
    assert (done.code, out.exists()) == (2, False)
    assert "tiles too many" in done.err
    done = cimc("export", made / "small.cim", "-o", out, "--flash", "elf")
    assert (done.code, out.exists()) == (2, False)
    assert "no flash form elf" in done.err
    assert cimc("export", made / "small.cim", "-c", "ideal", "-o", out).code == 2
    assert cimc("export", made / "small.cim", "-o", tmp_path / "none" / "m.cimg").code == 1


def test_read_back_and_fault_map(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", rows=np.array([[0, 0, 1]]), die=np.array("d7"))
    options = ("--source", "readback", "--seed", 4, "--fault-map", tmp_path / "f.npz")
    done = cimc("export", made / "small.cim", "-o", tmp_path / "m.cimg", *options, "--json")
    assert done.code == 0, done.err
    assert (done.json["source"], done.json["seed"], done.json["die"]) == ("readback", 4, "d7")
    assert done.json["cells"]["faulty"] == 64
    np.savez(tmp_path / "g.npz", rows=np.array([[0, 0, 2]]))
    assert cimc("image", "verify", tmp_path / "m.cimg", "--fault-map", tmp_path / "f.npz").code == 0
    refused = cimc("image", "verify", tmp_path / "m.cimg", "--fault-map", tmp_path / "g.npz")
    assert refused.code == 2
    assert "of die d7" in refused.err


def test_an_image_of_a_trained_chip_says_how_it_was_trained(made: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    np.savez(tmp_path / "d.npz", x=random.random((40, 6, 6), np.float32), y=random.integers(0, 4, 40))
    options = ("--data", tmp_path / "d.npz", "--epochs", 2, "--batch", 8, "--lr", 0.01, "--update", "residual")
    assert cimc("train", made / "small.cim", *options, "--clip-norm", "inf", "-o", tmp_path / "t.cim").code == 0
    training = cimc("inspect", tmp_path / "t.cim", "--json").json["provenance"]["training"]
    expected = {"target": "bulk-rram", "epochs": 2, "batch_size": 8, "learning_rate": 0.01, "optimizer": "adamw", "seed": 0}
    expected |= {"update": "residual", "schedule": "cosine", "loss": "softmax_cross_entropy", "clip_norm": None}
    assert training.items() >= expected.items()
    assert training["window"] == training["target_figures"]["update.window_he"]
    assert "40 images" in training["data"]
    assert "residual" in cimc("inspect", tmp_path / "t.cim").out
    assert cimc("inspect", made / "small.cim", "--json").json["provenance"]["training"] is None

    for chip in ("bulk-rram", "isaac"):
        done = cimc("export", tmp_path / "t.cim", "-c", chip, "-o", tmp_path / "t.cimg", "--json")
        assert done.json["training"] == training
    assert cimc("image", "info", tmp_path / "t.cimg", "--json").json["training"] == training
    assert "residual" in cimc("image", "info", tmp_path / "t.cimg").out

    assert cimc("train", tmp_path / "t.cim", *options, "-o", tmp_path / "u.cim").code == 0
    again = cimc("inspect", tmp_path / "u.cim", "--json").json["provenance"]["training"]
    assert (again["init"], again["continues"]) == ("trained", training)


def test_info_and_one_cell(image: Path) -> None:
    report = cimc("image", "info", image, "--json").json
    assert [layer["name"] for layer in report["layers"]] == ["conv", "dense"]
    assert report["cells"]["use"] == 2 * (9 * 3 + 48 * 4)
    assert "bulk-rram-256" in cimc("image", "info", image).out
    cell = cimc("image", "info", image, "--cell", "0,0,0,0", "--json").json
    assert cell["use"] == "use"
    assert 10 <= cell["g_us"] <= 70
    assert cimc("image", "info", image, "--cell", "0,0,0,0").code == 0
    assert cimc("image", "info", image, "--cell", "1,2").code == 2
    assert cimc("image", "info", image, "--cell", "9,9,9,9").code == 2


def test_verify_names_what_does_not_fit(image: Path, tmp_path: Path) -> None:
    done = cimc("image", "verify", image, "--chip", "bulk-rram-256", "--json")
    assert done.json["ok"]
    assert "platform" in done.json["checked"]
    wrong = cimc("image", "verify", image, "--chip", "bulk-rram")
    assert wrong.code == 2
    assert "array.rows 64 instead of 256" in wrong.err
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.cimg").write_bytes(data)
    bad = cimc("image", "verify", tmp_path / "bad.cimg")
    assert bad.code == 2
    assert "damaged" in bad.err


def test_signatures_are_asked_for_and_said(made: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    key = Ed25519PrivateKey.generate().private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
    (tmp_path / "key.pem").write_bytes(key)
    signed = tmp_path / "s.cimg"
    assert cimc("export", made / "small.cim", "--sign", tmp_path / "key.pem", "-o", signed).code == 0
    assert cimc("image", "verify", signed, "--require-signature", "--json").json["signature"] == "checked"
    assert cimc("image", "verify", image, "--json").json["signature"] == "none"
    for command in (("info",), ("verify",), ("program",)):
        assert cimc("image", *command, image, "--require-signature").code == 2
    for module in ("sign", "content"):
        monkeypatch.setattr(f"cimc.image.{module}.available", lambda: False)
    for command in (("info",), ("verify",), ("program", "--error-free")):
        done = cimc("image", *command, signed)
        assert done.code == 0
        assert "cannot be checked" in done.err
        assert cimc("image", *command, signed, "--require-signature").code == 2
    assert cimc("image", "info", signed, "--json").json["signature"] == "not checked"


def test_ranges_without_data_are_said_and_data_set_them(made: Path, tmp_path: Path) -> None:
    options = ("export", made / "small.cim", "-c", "bulk-rram-256", "-o", tmp_path / "m.cimg", "--json")
    without, given = cimc(*options), cimc(*options, "--calibration", made / "data.npz")
    assert "synthetic" in without.err
    assert "--calibration D.npz" in without.err
    assert "synthetic" not in given.err
    assert "12" in given.json["calibration"]
    gains = [[layer["input_gain"] for layer in done.json["layers"]] for done in (without, given)]
    assert gains[0] != gains[1]


def test_diff(image: Path, made: Path, tmp_path: Path) -> None:
    assert cimc("image", "diff", image, image, "--json").json["same"]
    assert "the same" in cimc("image", "diff", image, image).out
    assert cimc("export", made / "small.cim", "-o", tmp_path / "own.cimg").code == 0
    found = cimc("image", "diff", image, tmp_path / "own.cimg", "--json").json
    assert not found["same"]
    assert found["platform"]["array.rows"] == [256, 64]
    assert {row["name"] for row in found["layers"]} == {"conv", "dense"}
    assert cimc("image", "diff", image, tmp_path / "own.cimg").code == 0


def test_program_reports_and_run_runs(image: Path, made: Path, tmp_path: Path) -> None:
    done = cimc("image", "program", image, "--seed", 3, "--programming", "write_verify", "-o", tmp_path / "r.npz", "--json")
    assert done.code == 0, done.err
    assert done.json["method"] == "write_verify"
    assert done.json["totals"]["time_ns"] is None
    with np.load(tmp_path / "r.npz") as report:
        assert report["dense/success"].shape == report["dense/readback_us"].shape == report["dense/pulses"].shape
        assert int(sum(report[f"{name}/pulses"].sum() for name in ("conv", "dense"))) <= done.json["totals"]["pulses"]
    assert cimc("image", "program", image).code == 0
    options = ("--input", made / "images.npz", "-o", tmp_path / "y.npz", "--seed", 3)
    ran = cimc("image", "run", image, *options, "--check", made / "small.onnx", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["check"][0]["name"] == "logits"
    die = api.load_image(image).program(3)
    with np.load(made / "images.npz") as x, np.load(tmp_path / "y.npz") as y:
        np.testing.assert_array_equal(y["logits"], die.run({"input": x["input"]}, 0)["logits"])
    assert cimc("image", "run", image, *options, "--check", made / "small.onnx").code == 0


def test_faults_of_a_die_are_mapped_and_kept_clear_of(made: Path, tmp_path: Path) -> None:
    faulty = ("--set", "device.stuck_low_rate=0.005", "--set", "array.tiles_per_chip=null")
    done = cimc("compile", made / "small.onnx", "--target", "bulk-rram", *faulty, "-o", tmp_path / "m.cim")
    assert done.code == 0, done.err
    done = cimc("image", "faults", tmp_path / "m.cim", "--seed", 3, "-o", tmp_path / "f.npz", "--json")
    assert done.code == 0, done.err
    assert done.json["cells"] > 0
    options = ("-o", tmp_path / "m.cimg", "--fault-map", tmp_path / "f.npz", "--json")
    done = cimc("export", tmp_path / "m.cim", *options)
    assert done.code == 0, done.err
    assert done.json["die"] == "bulk-rram 3"
    done = cimc("image", "program", tmp_path / "m.cimg", "--seed", 3, "--fault-map", tmp_path / "f.npz", "--json")
    assert done.code == 0, done.err
    assert cimc("image", "faults", "no-such-chip", "-o", tmp_path / "g.npz").code == 2
