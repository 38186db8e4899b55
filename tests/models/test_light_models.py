"""The light models of the onnx package: published graphs of real networks, weights constants, so their values say little.

What is held: each compiles for the chip and runs, every convolution and dense layer with a constant weight is on crossbars,
whole, and the placement report has each node of the user's model once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import cimc

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

SLOW = ("bvlc_alexnet", "inception_v1", "inception_v2", "densenet121", "resnet50", "zfnet512", "vgg19")
NAMES = ["squeezenet", "shufflenet", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def weights_of(model: onnx.ModelProto, nodes: set[str]) -> dict[str, int]:
    """Values of the weight of each of these nodes, from ONNX's own shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    shapes |= {t.name: list(t.dims) for t in inferred.graph.initializer}
    names = {node.input[1] for node in model.graph.node if node.name in nodes}
    return {name: int(np.prod(shapes[name])) for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_light_model_on_the_chip(name: str) -> None:
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    # Weights that are constants make the search for scales of least error long and void.
    program = cimc.compile(model, "bulk-rram-256", settings={"weights.window": "largest", "weights.scale": "layer"})

    placed = program.placement()
    by_node = {row["name"]: row for row in placed}
    assert len(by_node) == len(placed) == len(model.graph.node)
    depthwise = [row for row in placed if row["where"] == "digital" and row["why"].startswith("depthwise")]
    products = [row for row in placed if row["op_type"] in ("Conv", "Gemm") and row not in depthwise]
    assert products
    assert len(depthwise) == (16 if name == "shufflenet" else 0)
    assert all(row["where"] == "analog" for row in products)
    assert all(row["why"] for row in placed)
    # A weight is a pair of devices.
    assert program.cost().to_dict()["devices"] == 2 * sum(weights_of(model, {row["name"] for row in products}).values())

    (spec,) = [value for value in program.inputs if not value.has_default]
    x = np.random.default_rng(0).random(tuple(d if isinstance(d, int) else 1 for d in spec.shape or ()), np.float32)
    chip = cimc.Chip(program)
    (y,) = chip.run({spec.name: x}).values()
    assert y.reshape(-1).shape == (1000,)
    assert np.isfinite(y).all()
    reads = {layer: entry["tile_reads"] for layer, entry in chip.stats().items()}
    assert reads.keys() == {layer.name for layer in program.layers}
    assert all(count > 0 for count in reads.values())
