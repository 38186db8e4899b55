"""What data by input name may hold: each array that the model takes, and nothing that training would ignore."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cimc

TEXT = """two (float[N, 4] a, float[N, 4] b, float[4] shift) => (float[N, 3] y) {
    c = Add (a, b)  d = Add (c, shift)  y = MatMul (d, w)
}"""
A, B = np.random.default_rng(0).random((2, 8, 4)).astype(np.float32)
Y = np.arange(8) % 3
SHIFT = np.zeros(4, np.float32)


def trainer() -> cimc.Trainer:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {TEXT}')
    for name, array in (("w", np.eye(4, 3, dtype=np.float32)), ("shift", SHIFT)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return cimc.Trainer(cimc.Chip(cimc.compile(proto, "ideal")), batch_size=4, init="weights")


@pytest.mark.parametrize(
    ("more", "said"), [({"mask": A}, "no input is called mask"), ({"shift": SHIFT + 1}, "shift has a default")]
)
@pytest.mark.parametrize("way", ["step", "gradients", "evaluate", "fit", "stream", "validation"])
def test_an_array_that_training_would_ignore_is_refused(way: str, more: dict[str, Any], said: str) -> None:
    made, sound = trainer(), {"a": A, "b": B}
    given = {**sound, **more}
    calls = {
        "step": lambda: made.step(given, Y),
        "gradients": lambda: made.gradients(given, Y),
        "evaluate": lambda: made.evaluate(given, Y),
        "fit": lambda: made.fit(given, Y, epochs=1),
        "stream": lambda: made.fit([(given, Y)], epochs=1),
        "validation": lambda: made.fit(sound, Y, epochs=1, validation=(given, Y)),
    }
    with pytest.raises(cimc.DataError, match=said):
        calls[way]()
    made.step(sound, Y)
