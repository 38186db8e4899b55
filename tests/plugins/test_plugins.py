"""A device from outside passes the contract, and is by-passed nowhere."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.app import app
from cimc.devices import Memristor
from cimc.errors import ArtifactError, CimcError, TargetError
from cimc.runtime.cells import born_on
from cimc.runtime.pulses import PulseWriter
from cimc.runtime.write import Writer
from cimc.targets import kinds
from cimc.targets.device import Device
from cimc.targets.load import load_target
from cimc.testing import check_device, check_drift, check_programmer, check_programming, check_read_noise, check_weight_code
from tests.image.models import exact
from tests.runtime import pcm
from tests.training.small import chip, data, model, trainer

FILE = Path(__file__).parent / "flux.py"
X, Y = data(32)
VERIFY = {"device.write_verify": {"start_v": 1.0, "stop_v": 2.0, "step_v": 0.5, "tolerance_us": 1.0, "trials": 4}}
FLUX = {"device.kind": "flux", "device.share": 0.02}


def forget():
    for part in kinds._registered.values():
        part.clear()
    for changed in kinds._listeners:
        changed()


@pytest.fixture
def flux():
    spec = spec_from_file_location("flux_of_the_test", FILE)
    module = module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    forget()


def test_the_contract_holds_for_parts_from_outside(flux):
    check_device(flux.Flux, {"g_max_us": 50.0, "share": 0.1})
    check_programming(flux.Lognormal, {"spread": 0.1})
    check_drift(flux.Halving)
    check_read_noise(flux.Shot)
    check_programmer(flux.Halfway)
    check_weight_code(flux.Centred)


@pytest.mark.parametrize("settings", [{}, pcm.CHIP | pcm.NOISE])
def test_the_contract_holds_for_the_built_in_device(settings):
    device = load_target("bulk-rram", settings).device
    check_device(Memristor, device.model_dump())
    if device.drift is not None:
        from cimc.runtime.devices.drift import PowerLaw, Relaxation
        from cimc.runtime.devices.programming import NormalProgramming
        from cimc.targets.programming_sections import PolynomialProgramming
        from cimc.targets.time_sections import FlickerNoise, PowerLawDrift, RelaxationDrift

        class Power(PowerLaw):
            Section = PowerLawDrift

        class Relaxed(Relaxation):
            Section = RelaxationDrift

        class Polynomial(NormalProgramming):
            Section = PolynomialProgramming

        check_drift(Power, device.drift.model_dump())
        check_drift(Relaxed, {"sigma_us": [0.3], "mean_growth_us": [-0.1], "around": "goal"})
        check_programming(Polynomial, {"sigma_coefficients_us": [0.1, 0.02]})
        check_read_noise(FlickerNoise, device.read_noise.model_dump())


@pytest.mark.parametrize(
    ("method", "broken", "said"),
    [
        ("conductance", lambda self, state, time_s: state.g_us - 100, "negative"),
        ("conductance", lambda self, state, time_s: np.sort(state.g_us)[::-1] * np.float32(1 / (1 + state.g_us.size)), "parts"),
        ("read_variance", lambda self, state, g_us, time_s: np.float32(np.nan), "not finite"),
        ("read_variance", lambda self, state, g_us, time_s: np.ones(3), "shape"),
        ("birth", lambda self, cells: np.random.default_rng(0).uniform(size=cells.size).astype(np.float32), "birth"),
        ("arrays", lambda self, g_us, time_s: {"a": np.zeros(3)}, "arrays"),
    ],
)
def test_what_breaks_the_contract_is_named(method, broken, said):
    bad = type("Bad", (Memristor,), {method: broken})
    with pytest.raises(AssertionError, match=said):
        check_device(bad, {"g_max_us": 50.0, "born_us": [1.0, 2.0]})


def test_statistics_that_are_not_the_stated_ones_are_named(flux):
    class Wide(flux.Lognormal):
        def write(self, goal_us, keys):
            return super().write(goal_us, keys) * np.float32(1.05)

    with pytest.raises(AssertionError, match="the mean error is"):
        check_programming(Wide)


# Nowhere by-passed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["ideal", "bulk-rram"])
def test_compile_run_and_age(flux, base):
    # Plain NumPy: these few reads of devices that differ would compile kernels of their own.
    c = chip(base, backend="reference", **FLUX | {"device.share": 0.0, "device.life_s": 100.0})
    before = c.weights()["Gemm_0"]
    assert not np.array_equal(c.conductances("Conv_0"), chip(base, **FLUX).conductances("Conv_0"))
    fresh = c.run({"x": X}, 0)["y"]
    c.advance(100.0)
    np.testing.assert_allclose(c.weights()["Gemm_0"], before / np.e, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(c.run({"x": X}, 0)["y"], fresh)


@pytest.mark.parametrize("update", ["threshold", "naive"])
def test_training_writes_with_it(flux, update, tmp_path):
    c = chip(**FLUX | VERIFY | {"update.programming": "write_verify"})
    options = {"optimizer": "sgd", "lr": 1.0} if update == "naive" else {"threshold": 0.0}
    t = trainer(c, update=update, init="weights", **options)
    c.advance(10.0)
    for _ in range(3):
        t.step(X[:16], Y[:16])
    held = c.crossbars["Conv_0"].held[0]
    assert held.arrays["times"].max() > 2  # writes and pulses went through the model
    assert set(np.unique(held.arrays["written_s"])) == {0.0, 10.0}
    c.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert (again.crossbars["Conv_0"].held[0].arrays["times"] == held.arrays["times"]).all()
    assert again.run({"x": X}, 0)["y"].tobytes() == c.run({"x": X}, 0)["y"].tobytes()


def test_blind_pulses_are_its_own(flux):
    target = load_target("bulk-rram", FLUX | {"device.step_us": 0.5})
    g_us = np.full(1000, 20, np.float32)
    writer = PulseWriter(target, g_us, np.zeros(1000, np.uint32), 3)
    writer.pulse(np.arange(1000), np.full(1000, 4, np.int32))
    assert abs(g_us.mean() - 22) < 5 * 0.5 * 0.1 * 2 / np.sqrt(1000)
    t = trainer(chip(**FLUX), update="residual", init="weights")
    t.step(X[:16], Y[:16])


def test_an_images_die_is_written_with_it(flux):
    target = exact(**{name.replace(".", "__"): value for name, value in FLUX.items()})
    program = cimc.compile(model(), target=target, calibration={"x": X})
    image = cimc.export_image(cimc.Chip(program, 0))
    die = image.program(seed=1, programming="gaussian")
    assert die.programming.method == "gaussian"
    assert (die.crossbars["Conv_0"].held[0].arrays["times"] == 2).all()
    patient = VERIFY | {"device.write_verify.trials": 60, "device.write_verify.tolerance_us": 2.0}
    verified = image.program(seed=1, target=load_target(target, patient), programming="write_verify")
    assert verified.programming.method == "write_verify"
    layer = verified.programming.layers["Conv_0"]
    assert layer.success.mean() > 0.9
    assert layer.pulses.max() > 3
    held = verified.crossbars["Conv_0"].held[0]
    assert (held.arrays["times"].reshape(-1) == 1 + layer.pulses.reshape(-1)).all()  # one change a pulse


@pytest.mark.parametrize("kind", ["direct", "write_verify", "blind_pulses", "halfway"])
def test_every_programmer_writes_through_the_device_everywhere(flux, kind):
    """Whatever changes a conductance is a write or a pulse of the outside device, which counts them by device."""
    settings = (
        FLUX | VERIFY | {"programmer.kind": kind, "device.step_us": 1.0, "programmer.spread_us": 50.0}
    )  # pulses of this device are linear
    target = exact(**{name.replace(".", "__"): value for name, value in settings.items()})
    program = cimc.compile(model(), target=target, calibration={"x": X})
    c = cimc.Chip(program, 0)
    for made in (c, cimc.export_image(c).program(seed=1)):
        crossbar = made.crossbars["Conv_0"]
        born, held = born_on(target.device, crossbar.cells_of().keys()), crossbar.held[0]
        changes = held.arrays["times"].astype(int) - 1
        assert np.array_equal(held.g_us != born, changes > 0)
        assert changes.sum() > 0.5 * changes.size
    t = trainer(c, threshold=0.0)
    held = c.crossbars["Conv_0"].held[0]
    before, counted = held.g_us.copy(), held.arrays["times"].copy()
    t.step(X[:16], Y[:16])
    assert (held.g_us != before).any()
    assert np.array_equal(held.g_us != before, held.arrays["times"] > counted)


def test_the_vectorised_path_does_what_the_kernels_do(flux):
    """A subclass that changes nothing takes the general path of all writers."""

    class Same(Memristor):
        pass

    cimc.register_device(Same, "same")
    n, found = 4000, []
    for kind in ("memristor", "same"):
        target = load_target("bulk-rram", {"device.kind": kind})
        g_us, goals = np.full(n, 12, np.float32), np.full(n, 25, np.float32)
        writer = Writer(target, g_us, np.zeros(n, np.uint32), 3, kind="write_verify")
        assert writer.compiled == (kind == "memristor")
        done = writer.program(np.arange(n), goals)
        found.append((g_us.astype(np.float64), done.pulses.mean(), done.reads.mean(), done.success.mean()))
    one, other = found
    spread = one[0].std()
    assert abs(one[0].mean() - other[0].mean()) < 5 * spread * np.sqrt(2 / n)
    assert abs(one[0].std() / other[0].std() - 1) < 0.1
    assert one[1:] == pytest.approx(other[1:], rel=0.08)
    pulsed = []
    for kind in ("memristor", "same"):
        g_us = np.full(n, 12, np.float32)
        writer = PulseWriter(load_target("bulk-rram", {"device.kind": kind}), g_us, np.zeros(n, np.uint32), 3)
        writer.pulse(np.arange(n), (np.arange(n) % 7 - 3).astype(np.int32))
        pulsed.append(g_us)
    np.testing.assert_allclose(*pulsed, rtol=1e-5)  # the same draws


def test_a_weight_code_from_outside_computes_and_is_refused_where_a_kernel_knows_no_such_code(flux):
    settings = {"weights.representation": "centred", "weights.window": "largest", "array.transposed.dac_bits": 8}
    quiet = {"device.read_sigma_us": 0.0, "device.programming.sigma_us": 0.0, "device.programming.mean_us": 0.0}
    c = chip("bulk-rram", **settings | quiet, **{"device.levels": 255, "weights.rounded": True})
    weights = onnx.numpy_helper.to_array(model().graph.initializer[-1]).T
    found = c.weights()["Gemm_0"][0]
    assert np.abs(found - weights).max() <= 0.5 * np.abs(weights).max() / 254 * 1.01
    assert (c.conductances("Gemm_0").sum(axis=2).std() < 0.1).all()
    with pytest.raises(TargetError, match="training needs a weight in one device or one pair"):
        trainer(c)


# Files and the command line -------------------------------------------------------------------------------------------


def test_a_file_names_a_kind_and_runs_no_code(flux, tmp_path):
    program = cimc.compile(model(), target="bulk-rram", settings=FLUX, calibration={"x": X})
    program.save(tmp_path / "m.cim")
    exact_target = exact(**{name.replace(".", "__"): value for name, value in FLUX.items()})
    cimc.export_image(cimc.Chip(cimc.compile(model(), target=exact_target, calibration={"x": X}), 0)).save(tmp_path / "m.cimg")
    (tmp_path / "mine.yaml").write_text("extends: bulk-rram\ndevice: {kind: flux, share: 0.1}\n")
    forget()
    for load, kind in ((cimc.load, "m.cim"), (cimc.load_image, "m.cimg"), (load_target, "mine.yaml")):
        with pytest.raises((ArtifactError, TargetError), match="no model 'flux'") as error:
            load(tmp_path / kind)
        assert "--plugin" in error.value.fix
    np.savez(tmp_path / "x.npz", x=X, y=Y)

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    refused = run("evaluate", tmp_path / "m.cim", "--data", tmp_path / "x.npz")
    assert refused.exit_code == 2
    assert "--plugin" in refused.stderr
    for command in (
        ["evaluate", tmp_path / "m.cim", "--data", tmp_path / "x.npz", "--time", "1s,1d"],
        ["targets", "validate", tmp_path / "mine.yaml"],
        ["image", "run", tmp_path / "m.cimg", "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz"],
    ):
        done = run(*command, "--plugin", FILE)
        assert done.exit_code == 0, done.output
        forget()


@pytest.mark.parametrize(
    ("text", "said"), [("1 / 0", "ZeroDivisionError"), ("import cimc\ncimc.register('x', 'y', int)", "no part")]
)
def test_a_plugin_that_fails_is_named(tmp_path, text, said):
    path = tmp_path / "bad.py"
    path.write_text(text)
    done = CliRunner().invoke(app, ["targets", "list", "--plugin", str(path)])
    assert done.exit_code == 2
    assert said in done.stderr
    done = CliRunner().invoke(app, ["targets", "list", "--plugin", str(tmp_path / "none.py")])
    assert "there is no such file" in done.stderr


def test_a_plugins_section_is_part_of_the_device():
    with pytest.raises(CimcError, match="no subclass of Device"):
        cimc.register_device(type("Odd", (), {"Section": int}), "odd")
    assert Device().kind == "memristor"


def test_the_example_of_the_page_holds_the_contract(tmp_path):
    import re

    page = (FILE.parents[2] / "docs" / "devices.md").read_text("utf-8")
    path = tmp_path / "mine.py"
    path.write_text(re.search(r"```python\n# mine.py\n(.*?)```", page, re.DOTALL)[1])
    done = CliRunner().invoke(app, ["targets", "list", "--plugin", str(path)])
    assert done.exit_code == 0
    check_programming(kinds._registered["programming"]["lognormal"], {"spread": 0.1})
    forget()
