"""`cimc warmup`: compile all kernels, so that no later command has to wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cimc.cli.common import Json, note, print_json

if TYPE_CHECKING:
    import onnx

    from cimc.ir.program import Program

#: Networks that between them have every kind of geometry, and what else has kernels: pools.
_HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 6, 6] x) => (float[N, 3] y)'
_CONVOLUTION = """a = Conv <kernel_shape = [3, 3], pads = [1, 0, 1, 0]> (x, w1, b1)  c = Relu (a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  d = Conv <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (p, w5)
    e = Relu (d)  q = MaxPool <kernel_shape = [2, 2]> (e)  f = Flatten (q)  y = Gemm <transB = 1> (f, w2, b2)"""
_TRANSPOSED = """a = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2], pads = [0, 1, 1, 0]> (x, w3, b3)  c = Sigmoid (a)
    d = ConvTranspose <kernel_shape = [2, 2]> (c, w6)  f = Flatten (d)  y = MatMul (f, w4)"""
_WEIGHTS = {
    "w1": (4, 2, 3, 3), "b1": (4,), "w5": (4, 4, 2, 2), "w2": (3, 8), "b2": (3,),
    "w3": (2, 3, 2, 2), "b3": (3,), "w6": (3, 2, 2, 2), "w4": (288, 3),
}  # fmt: skip
_TARGETS = ("ideal", "bulk-rram", "bulk-rram-256", "isaac", "hermes-pcm", "cmo-hfox", "neurram")
_SMALL = {"array.rows": 16, "array.columns": 48}
#: Ways to train: arguments of a Trainer, and settings of the target.
_TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "threshold": ({"optimizer": "adamw", "clip_norm": 1.0}, {}),
    "write-verify": ({"optimizer": "sgd"}, {"update.programming": "write_verify"}),
    "residual": ({"update": "residual", "optimizer": "momentum"}, {"device.pulse.up_us": 1.0, "device.pulse.down_us": 1.0}),
    "naive": ({"update": "naive", "optimizer": "sgd"}, {}),
    "pulse trains": ({"update": "pulsed", "optimizer": "sgd"}, {"update.rule": "pulsed"}),
    "analog backward pass": ({"backward": "analog"}, {"array.transposed.dac_bits": 8}),
}


def warmup(json: Json = False) -> None:
    """Compile all kernels now; what a later command would wait for, once, about two minutes."""
    from cimc.runtime import jit

    begin = time.monotonic()
    jit.quiet()
    work = workouts()
    for number, (name, run) in enumerate(work, 1):
        before = len(jit.compiled)
        run()
        note(f"{number} of {len(work)}, {name}: {len(jit.compiled) - before} kernels compiled")
    seconds = round(time.monotonic() - begin, 1)
    if json:
        print_json({"compiled": len(jit.compiled), "seconds": seconds})
        return
    note(f"all kernels are compiled: {len(jit.compiled)} now, the others before ({seconds} s)")


def workouts() -> list[tuple[str, Callable[[], None]]]:
    """Small pieces of work, by name, that between them call every kernel."""
    found: list[tuple[str, Callable[[], None]]] = []
    for target in _TARGETS:
        found.append((f"inference on {target}", lambda target=target: _infer(target)))  # type: ignore[misc]
    found.append(("inference through wires", _wires))
    for name, (options, settings) in _TRAININGS.items():
        found.append((f"training, {name}", lambda o=options, s=settings: _train(o, s)))  # type: ignore[misc]
    return [*found, ("images", _image), ("explaining", _explain)]


def _model(text: str) -> onnx.ModelProto:
    import numpy as np
    import onnx

    proto = onnx.parser.parse_model(f"{_HEAD} {{ {text} }}")
    random = np.random.default_rng(0)
    for name, shape in _WEIGHTS.items():
        if name in text:
            array = random.normal(0, 0.3, shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def _images(number: int) -> Any:
    import numpy as np

    return np.random.default_rng(1).uniform(0, 1, (number, 2, 6, 6)).astype(np.float32)


def _program(text: str, target: str, settings: dict[str, Any]) -> Program:
    import cimc

    return cimc.compile(_model(text), target=target, calibration={"x": _images(8)}, settings=settings, repeats="none")


def _infer(target: str) -> None:
    import cimc

    for text in (_CONVOLUTION, _TRANSPOSED):
        for settings in (_SMALL, {"weights.scale": "column"}, {"device.stuck_high_rate": 0.01}):
            chip = cimc.Chip(_program(text, target, settings))
            for number in (1, 40):
                chip.run({"x": _images(number)})
            chip.weights()


def _wires() -> None:
    import cimc

    wires = {"array.wires.row_segment_ohm": 1.0, "array.wires.column_segment_ohm": 1.0}
    cimc.Chip(_program(_CONVOLUTION, "bulk-rram", _SMALL | wires)).run({"x": _images(1)})


def _train(options: dict[str, Any], settings: dict[str, Any]) -> None:
    import numpy as np

    import cimc

    for text in (_CONVOLUTION, _TRANSPOSED):
        chip = cimc.Chip(_program(text, "bulk-rram", _SMALL | settings))
        trainer = cimc.Trainer(chip, batch_size=16, lr=0.3, calibration_images=16, **options)
        trainer.fit(_images(32), np.arange(32) % 3, epochs=2, validation=(_images(16), np.arange(16) % 3))


def _image() -> None:
    import cimc

    for target in ("bulk-rram", "isaac"):
        image = cimc.export_image(_program(_CONVOLUTION, target, _SMALL))
        for method in ("auto", "gaussian"):
            image.program(programming=method).run({"x": _images(2)})


def _explain() -> None:
    import cimc

    cimc.explain(_program(_CONVOLUTION, "bulk-rram", _SMALL), _images(4))
