"""Arguments of the wrong type or value: an error of ours from every public entry; arrays of any layout are read alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir
import pytest
from typing_extensions import TypeAliasType

import cimc
from cimc.arguments import checked
from cimc.ir.program import InputCoding, Preprocessing

X = np.random.default_rng(0).uniform(0, 1, (6, 4)).astype(np.float32)
Y = np.arange(6) % 3


@cache
def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 3] y) { h = MatMul(x, w) y = Relu(h) }'
    )
    weight = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


@cache
def program() -> cimc.Program:
    return cimc.compile(model(), target="bulk-rram", calibration={"x": X})


def chip() -> cimc.Chip:
    return cimc.Chip(program(), 0)


@cache
def image() -> Any:
    return cimc.export_image(program())


def trainer(**options: Any) -> cimc.Trainer:
    return cimc.Trainer(chip(), **options)


#: A refused call changes nothing, so all of them may share one object.
kept = cache(chip)
kept_trainer = cache(lambda: trainer(batch_size=2))


def coding() -> InputCoding:
    return program().layers[0].coding


NAN = float("nan")
MNIST = Path(__file__).parents[1] / "examples/data/mnist.npz"
#: Of the wrong type for almost any argument.
ODD: tuple[Any, ...] = (3, 2.5, "two", NAN, float("inf"), -1, [1], {"a": 1}, b"b", object(), print, np.ones(3), (), True, 1j)
#: entry -> the call with one argument odd, and which odd values are right there
ENTRIES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool]]] = {
    "compile, model": (lambda v: cimc.compile(v), lambda v: False),
    "compile, target": (lambda v: cimc.compile(model(), v), lambda v: False),
    "compile, calibration": (lambda v: cimc.compile(model(), calibration=v), lambda v: False),
    "compile, calibration of x": (lambda v: cimc.compile(model(), calibration={"x": v}), lambda v: False),
    "compile, settings": (lambda v: cimc.compile(model(), settings=v), lambda v: v == ()),
    "compile, value of a setting": (lambda v: cimc.compile(model(), settings={"array.rows": v}), lambda v: v == 3),
    "compile, chips": (lambda v: cimc.compile(model(), chips=v), lambda v: v == 3),
    "compile, copies": (lambda v: cimc.compile(model(), copies=v), lambda v: False),
    "compile, copies of a layer": (lambda v: cimc.compile(model(), copies={"MatMul_0": v}), lambda v: v == 3),
    "compile, preprocessing": (lambda v: cimc.compile(model(), preprocessing=v), lambda v: False),
    "compile, verify": (lambda v: cimc.compile(model(), verify=v), lambda v: v is True),
    "compile, stop_after": (lambda v: cimc.compile(model(), stop_after=v), lambda v: False),
    "compile, on_pass": (lambda v: cimc.compile(model(), on_pass=v), lambda v: v is print),
    "compile, no such argument": (lambda v: cimc.compile(model(), chip=v), lambda v: False),
    "load": (lambda v: cimc.load(v), lambda v: False),
    "Chip, program": (lambda v: cimc.Chip(v), lambda v: False),
    "Chip, seed": (lambda v: cimc.Chip(program(), v), lambda v: v == 3),
    "Chip, deterministic": (lambda v: cimc.Chip(program(), deterministic=v), lambda v: v is True),
    "run": (lambda v: kept().run(v), lambda v: False),
    "run, value": (lambda v: kept().run({"x": v}), lambda v: False),
    "run, name": (lambda v: kept().run({v if v.__hash__ else None: X}), lambda v: False),
    "run, first_image": (lambda v: kept().run({"x": X}, v), lambda v: v == 3),
    "run, keep": (lambda v: kept().run({"x": X}, keep=v), lambda v: v == ()),
    "run, name to keep": (lambda v: kept().run({"x": X}, keep=(v,)), lambda v: False),
    "multiply, step": (lambda v: kept().multiply(v, X), lambda v: False),
    "multiply, x": (lambda v: kept().multiply(program().vmm_steps[0].name, v), lambda v: False),
    "run, stream": (lambda v: kept().run({"x": X}, stream=v), lambda v: v == ()),
    "set_ranges": (lambda v: kept().set_ranges(v), lambda v: False),
    "set_ranges, layer": (lambda v: kept().set_ranges({v if v.__hash__ else None: (coding(), 1.0)}), lambda v: False),
    "set_ranges, pair": (lambda v: kept().set_ranges({"MatMul_0": v}), lambda v: False),
    "set_ranges, coding": (lambda v: kept().set_ranges({"MatMul_0": (v, 1.0)}), lambda v: False),
    "set_ranges, range": (lambda v: kept().set_ranges({"MatMul_0": (coding(), v)}), lambda v: v in (3, 2.5)),
    "calibrate": (lambda v: kept().calibrate(v), lambda v: False),
    "calibrate, value": (lambda v: kept().calibrate({"x": v}), lambda v: False),
    "conductances": (lambda v: kept().conductances(v), lambda v: False),
    "chip.save": (lambda v: kept().save(v), lambda v: isinstance(v, str)),
    "program.save": (lambda v: program().save(v), lambda v: isinstance(v, str)),
    "cells": (lambda v: program().cells(v), lambda v: False),
    "layer": (lambda v: program().layer(v), lambda v: False),
    "adopt": (lambda v: kept().adopt(v), lambda v: False),
    "remap, layer": (lambda v: kept().remap(v, np.ones((1, 4, 3), np.float32), np.ones(1)), lambda v: False),
    "remap, matrix": (lambda v: kept().remap("MatMul_0", v, np.ones(1)), lambda v: False),
    "remap, g_us": (lambda v: kept().remap("MatMul_0", np.ones((1, 4, 3)), np.ones(1), v), lambda v: False),
    "cost, copies": (lambda v: program().cost(v), lambda v: False),
    "cost, crossbars": (lambda v: program().cost("auto", v), lambda v: v == 3),
    "Trainer, chip": (lambda v: cimc.Trainer(v), lambda v: False),
    "fit, x": (lambda v: kept_trainer().fit(v, Y, epochs=1), lambda v: False),
    "fit, y": (lambda v: kept_trainer().fit(X, v, epochs=1), lambda v: False),
    "fit, epochs": (lambda v: kept_trainer().fit(X, Y, epochs=v), lambda v: v == 3),
    "fit, steps_per_epoch": (lambda v: kept_trainer().fit(X, Y, epochs=1, steps_per_epoch=v), lambda v: v == 3),
    "fit, validation": (lambda v: kept_trainer().fit(X, Y, epochs=1, validation=v), lambda v: False),
    "fit, checkpoint": (lambda v: kept_trainer().fit(X, Y, epochs=1, checkpoint=v), lambda v: isinstance(v, str)),
    "fit, checkpoint_steps": (lambda v: kept_trainer().fit(X, Y, epochs=1, checkpoint_steps=v), lambda v: v == 3),
    "fit, resume": (lambda v: kept_trainer().fit(X, Y, epochs=1, resume=v), lambda v: False),
    "fit, callbacks": (lambda v: kept_trainer().fit(X, Y, epochs=1, callbacks=v), lambda v: v == ()),
    "step, x": (lambda v: kept_trainer().step(v, Y), lambda v: False),
    "step, y": (lambda v: kept_trainer().step(X, v), lambda v: False),
    "step, lr": (lambda v: kept_trainer().step(X, Y, v), lambda v: v in (3, 2.5)),
    "evaluate, x": (lambda v: kept_trainer().evaluate(v, Y), lambda v: False),
    "evaluate, y": (lambda v: kept_trainer().evaluate(X, v), lambda v: False),
    "evaluate, batch": (lambda v: kept_trainer().evaluate(X, Y, v), lambda v: v == 3),
    "gradients, x": (lambda v: kept_trainer().gradients(v, Y), lambda v: False),
    "export_image": (lambda v: cimc.export_image(v), lambda v: False),
    "export_image, target": (lambda v: cimc.export_image(program(), v), lambda v: False),
    "export_image, source": (lambda v: cimc.export_image(program(), source=v), lambda v: False),
    "export_image, fault_map": (lambda v: cimc.export_image(program(), fault_map=v), lambda v: False),
    "export_image, settings": (lambda v: cimc.export_image(program(), settings=v), lambda v: v == ()),
    "export_image, calibration": (lambda v: cimc.export_image(program(), "bulk-rram-256", calibration=v), lambda v: False),
    "export_image, chips": (lambda v: cimc.export_image(program(), chips=v), lambda v: v == 3),
    "export_image, copies": (lambda v: cimc.export_image(program(), copies=v), lambda v: False),
    "export_image, die": (lambda v: cimc.export_image(program(), die=v), lambda v: isinstance(v, str)),
    "export_image, training": (lambda v: cimc.export_image(program(), training=v), lambda v: isinstance(v, dict)),
    "export_image, key": (lambda v: cimc.export_image(program(), key=v), lambda v: False),
    "export_image, path": (lambda v: cimc.export_image(program(), path=v), lambda v: isinstance(v, str)),
    "load_image": (lambda v: cimc.load_image(v), lambda v: False),
    "Image.save": (lambda v: image().save(v), lambda v: isinstance(v, str)),
    "Image.grid": (lambda v: image().grid(v), lambda v: False),
    "Image.cell": (lambda v: image().cell(0, 0, 0, v), lambda v: v == 3),
    "Image.segments": (lambda v: image().segments(v), lambda v: False),
    "Image.segments, copy": (lambda v: image().segments(0, v), lambda v: False),
    "Image.copies": (lambda v: image().copies(v), lambda v: False),
    "Image.goals": (lambda v: image().goals(v), lambda v: False),
    "Image.goals, copy": (lambda v: image().goals("MatMul_0", v), lambda v: False),
    "Image.windows": (lambda v: image().windows(v), lambda v: False),
    "Image.windows, copy": (lambda v: image().windows(0, v), lambda v: False),
    "Image.sites": (lambda v: image().sites(v), lambda v: False),
    "Image.program, seed": (lambda v: image().program(v), lambda v: v == 3),
    "Image.program, target": (lambda v: image().program(target=v), lambda v: False),
    "Image.program, fault_map": (lambda v: image().program(fault_map=v), lambda v: False),
    "Image.program, calibration": (lambda v: image().program(calibration=v), lambda v: False),
    "Image.program, programming": (lambda v: image().program(programming=v), lambda v: False),
    "read_npz": (lambda v: cimc.datasets.read_npz(v), lambda v: False),
    "read_npz, names": (lambda v: cimc.datasets.read_npz(MNIST, v), lambda v: v == ()),
    "mnist": (lambda v: cimc.datasets.mnist(v), lambda v: False),
    "fashion_mnist": (lambda v: cimc.datasets.fashion_mnist(v), lambda v: False),
    "backend.prepare": (lambda v: cimc.backend.prepare(v), lambda v: False),
    "backend, inputs": (lambda v: cimc.backend.prepare(model()).run(v), lambda v: False),
} | {
    f"Trainer, {name}": (lambda v, name=name: trainer(**{name: v}), right)
    for name, right in {
        "loss": lambda v: False, "optimizer": lambda v: False, "lr": lambda v: v in (3, 2.5), "batch_size": lambda v: v == 3,
        "update": lambda v: False, "backward": lambda v: False, "seed": lambda v: v == 3, "schedule": lambda v: False,
        "init": lambda v: False, "window": lambda v: v in (3, 2.5), "w_max": lambda v: v in (3, 2.5), "freeze": lambda v: v == (),
        "trainable": lambda v: v == (), "ste": lambda v: False, "threshold": lambda v: v in (3, 2.5),
        "callbacks": lambda v: v == (),
        "clip_norm": lambda v: v in (3, 2.5) or v == float("inf"), "accumulate": lambda v: v == 3, "recalibrate": lambda v: False,
        "calibration_images": lambda v: v == 3, "optimizer_options": lambda v: False, "schedule_options": lambda v: False,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_odd_arguments_are_refused_by_an_error_of_ours(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a string is a good path
    call, right = ENTRIES[entry]
    for value in ODD:
        plain = not isinstance(value, np.ndarray) and value is not True
        if (plain and right(value)) or (value is True and right is not None and _takes_true(entry)):
            call(value)
            continue
        with pytest.raises(cimc.CimcError) as caught:
            call(value)
        assert str(caught.value), value


def _takes_true(entry: str) -> bool:
    return entry in ("compile, verify", "Chip, deterministic")


@pytest.mark.parametrize(
    "fields",
    [{"scale": 0}, {"scale": NAN}, {"scale": "x"}, {"scale": [1]}, {"mean": 1.0}, {"mean": ()}, {"mean": (NAN,)}, {"std": (0.0,)},
     {"std": (-1.0,)}, {"std": ("x",)}, {"variance": (1.0,)}],
    ids=str,
)  # fmt: skip
def test_preprocessing_refuses_what_makes_no_images(fields: dict[str, Any]) -> None:
    with pytest.raises(cimc.CimcError, match=next(iter(fields))):
        Preprocessing(**fields)


@pytest.mark.parametrize("span", [np.full(1, -1.0), np.full(1, NAN), np.ones(2), np.ones(1, int)], ids=str)
def test_remap_refuses_a_span_that_is_none(span: Any) -> None:
    with pytest.raises(cimc.DataError, match="weight_max"):
        kept().remap("MatMul_0", np.ones((1, 4, 3)), span)


def test_an_image_takes_a_layer_by_number_or_by_name() -> None:
    for call in (image().copies, image().goals, image().windows, image().segments, image().sites):
        assert repr(call(0)) == repr(call("MatMul_0"))
    with pytest.raises(cimc.CimcError, match="no layer 'fc'"):
        image().goals("fc")
    with pytest.raises(cimc.CimcError, match="copy is 1"):
        image().goals(0, 1)


@pytest.mark.parametrize("seed", [-1, 2**63, NAN, "x", 1.5, True])
def test_a_seed_is_a_whole_number_of_63_bits(seed: Any) -> None:
    with pytest.raises(cimc.CimcError, match="seed"):
        cimc.Chip(program(), seed)


WRONG: tuple[Any, ...] = (None, {}, {"x": None}, {"x": X, "z": X}, {"x": X[:, :3]}, {"x": X.astype(int)}, {"x": [["a"] * 4]})


@pytest.mark.parametrize("inputs", [*WRONG, {"x": [[1.0], [1, 2]]}])
def test_inputs_that_the_model_does_not_take(inputs: Any) -> None:
    with pytest.raises(cimc.CimcError):
        chip().run(inputs)


def test_numbers_of_numpy_are_numbers() -> None:
    one = cimc.Trainer(cimc.Chip(program(), np.int64(3)), batch_size=np.int32(2), lr=np.float32(0.01), seed=np.uint8(1))
    two = cimc.Trainer(cimc.Chip(program(), 3), batch_size=2, lr=float(np.float32(0.01)), seed=1)
    assert one.fit(X, Y, epochs=np.int64(1)).rows[0]["loss"] == two.fit(X, Y, epochs=1).rows[0]["loss"]


def _unaligned(x: Any) -> Any:
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    held = buffer[1:].view(x.dtype).reshape(x.shape)
    held[...] = x
    assert not held.flags.aligned
    return held


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "little-endian": lambda x: x.astype(x.dtype.newbyteorder("<")),
    "column-major": np.asfortranarray,
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "unaligned": _unaligned,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "matrix": lambda x: x.view(np.matrix) if x.ndim == 2 else x,
}


def _trained(x: Any, y: Any) -> Any:
    made = trainer(batch_size=2)
    made.fit(x, y, epochs=1, validation=(x, y))
    return made.weights()["w"]


#: Each public entry of arrays, as a function of images and labels.
READERS: dict[str, Callable[[Any, Any], Any]] = {
    "run": lambda x, y: chip().run({"x": x}, 0)["y"],
    "multiply": lambda x, y: chip().multiply(program().vmm_steps[0].name, x),
    "compile": lambda x, y: cimc.Chip(cimc.compile(model(), calibration={"x": x}), 0).run({"x": X}, 0)["y"],
    "calibrate": lambda x, y: _calibrated(x),
    "fit": _trained,
    "step": lambda x, y: trainer().step(x, y),
    "evaluate": lambda x, y: trainer().evaluate(x, y)["loss"],
    "gradients": lambda x, y: trainer().gradients(x, y)["w"],
    "image": lambda x, y: image().program(1, calibration={"x": x}).run({"x": x}, 0)["y"],
    "backend": lambda x, y: cimc.backend.prepare(model()).run([x])[0],
}


def _calibrated(x: Any) -> Any:
    made = chip()
    made.calibrate({"x": x})
    return made.run({"x": X}, 0)["y"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reader", READERS)
def test_arrays_of_any_layout_are_read_alike(reader: str, layout: str) -> None:
    read, change = READERS[reader], LAYOUTS[layout]
    np.testing.assert_array_equal(read(change(X), change(Y)), read(X, Y))


@pytest.mark.parametrize("layout", ["column-major", "unaligned", "read-only"])
def test_weights_of_any_layout_are_read_alike(layout: str) -> None:
    made = onnx_ir.from_proto(model())
    made.graph.inputs[0].shape, made.graph.outputs[0].shape = onnx_ir.Shape(["n", 32]), onnx_ir.Shape(["n", 8])
    array = np.random.default_rng(2).normal(size=(32, 8)).astype(np.float32)
    weight = made.graph.initializers["w"]
    weight.const_value, weight.shape = onnx_ir.Tensor(LAYOUTS[layout](array)), onnx_ir.Shape([32, 8])
    x = np.random.default_rng(3).uniform(0, 1, (2, 32)).astype(np.float32)
    got = cimc.Chip(cimc.compile(made, target="ideal"), 0).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.maximum(x @ array, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        np.ma.masked_array(X, X > 0.5),
        np.array([None] * 4),
        np.zeros(6, [("a", "f4")]),
        np.zeros((6, 4), "M8[s]"),
        np.zeros((6, 4), "V4"),
    ],
    ids=["masked", "objects", "records", "dates", "void"],
)
def test_what_is_no_array_of_numbers_is_refused(x: Any) -> None:
    calls: Mapping[str, Callable[[], Any]] = {name: lambda read=read: read(x, Y) for name, read in READERS.items()}  # type: ignore[misc]
    for name, call in calls.items():
        with pytest.raises(cimc.CimcError):
            call()
        assert name


#: A call that lacks an argument, has one too many or has one twice, and what is said.
MISCALLED: dict[str, tuple[Callable[[], Any], str]] = {
    "compile()": (lambda: cimc.compile(), "compile: model is missing"),
    "compile by place": (lambda: cimc.compile(model(), "ideal", {}), "3 arguments are given by place, 2 may be"),
    "load()": (lambda: cimc.load(), "load: path is missing"),
    "Chip()": (lambda: cimc.Chip(), "program is missing"),
    "Chip(path)": (lambda: cimc.Chip("m.cim"), "Chip(cimc.load('model.cim'))"),
    "run()": (lambda: chip().run(), "Chip.run: inputs is missing"),
    "run(array)": (lambda: chip().run(X), 'chip.run({"x": array})'),
    "calibrate(array)": (lambda: chip().calibrate(X), 'chip.calibrate({"x": array})'),
    "conductances()": (lambda: chip().conductances(), "layer is missing"),
    "save()": (lambda: chip().save(), "path is missing"),
    "program.save()": (lambda: program().save(), "Program.save: path is missing"),
    "cells()": (lambda: program().cells(), "layer is missing"),
    "Trainer()": (lambda: cimc.Trainer(), "chip is missing"),
    "Trainer(program)": (lambda: cimc.Trainer(program()), "Trainer(Chip(program))"),
    "loss function": (lambda: trainer(loss=lambda y, t: 0), "the loss is a function, not the name of one"),
    "optimizer object": (lambda: trainer(optimizer=object()), "the optimizer is a object, not the name of one"),
    "fit()": (lambda: trainer().fit(), "x and epochs are missing"),
    "fit without epochs": (lambda: trainer().fit(X, Y), "Trainer.fit: epochs is missing"),
    "fit by place": (lambda: trainer().fit(X, Y, 3), "3 arguments are given by place, 2 may be"),
    "step()": (lambda: trainer().step(), "x is missing"),
    "gradients()": (lambda: trainer().gradients(), "x is missing"),
    "evaluate twice": (lambda: trainer().evaluate(X, Y, x=X), "x is given twice"),
    "export_image()": (lambda: cimc.export_image(), "chip is missing"),
    "load_image()": (lambda: cimc.load_image(), "path is missing"),
    "fault_map()": (lambda: cimc.fault_map(), "source is missing"),
}


@pytest.mark.parametrize(("call", "said"), MISCALLED.values(), ids=MISCALLED)
def test_a_wrong_call_is_told_with_the_way_out(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(cimc.CimcError) as error:
        call()
    assert said in str(error.value)
    assert error.value.fix


def test_an_alias_of_the_array_type_takes_arrays() -> None:
    """numpy's NDArray is such an alias from Python 3.12 on."""
    scalar = TypeVar("scalar", bound=np.generic)
    alias = TypeAliasType("alias", np.ndarray[tuple[Any, ...], np.dtype[scalar]], type_params=(scalar,))

    def double(x: Any, more: Any = None) -> Any:
        return 2 * x

    double.__annotations__ = {"x": alias[Any], "more": Mapping[str, alias[np.float32]] | None}
    taken = checked()(double)
    assert taken(np.ones(2)).sum() == 4
    assert taken(np.ones(2), {"a": np.ones(1)}).sum() == 4
    with pytest.raises(cimc.CimcError, match="each value an array"):
        taken(np.ones(2), 3)
