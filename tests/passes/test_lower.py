"""Lowering: the program computes what the graph does, in as few segments as the crossbars allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from cimc.compiler import compile_model
from cimc.errors import VerifyError
from cimc.ir.printer import print_program
from cimc.ir.program import DigitalStep, VmmStep
from cimc.passes.lowering import segments
from cimc.runtime.chip import Chip

RNG = np.random.default_rng(0)

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
residual (float[n, 4, 8, 8] x) => (float[n, 10] y)
<float[4, 4, 3, 3] w1, float[4, 4, 3, 3] w2, float[4] g, float[4] b, float[4] m, float[4] v, float[4, 10] w3, float[10] b3>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, g, b, m, v)
    r1 = Relu (n1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    s = Add (c2, x)
    r2 = Relu (s)
    p = GlobalAveragePool (r2)
    f = Flatten (p)
    d = MatMul (f, w3)
    y = Add (d, b3)
}
"""


def weighted(text: str) -> onnx.ModelProto:
    """The model of the text; values that it only declares become random initializers, those named v positive."""
    model = parser.parse_model(text)
    made = {name for node in model.graph.node for name in node.output}
    for value in list(model.graph.value_info):
        if value.name not in made:
            shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            array = RNG.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.abs(array) + 0.5 if value.name == "v" else array, value.name)
            )
            model.graph.value_info.remove(value)
    return model


def outputs(model: onnx.ModelProto, **inputs: Any) -> list[Any]:
    return ort.InferenceSession(model.SerializeToString()).run(None, inputs)


def test_a_residual_network_runs_as_onnx_runtime_does() -> None:
    model = weighted(RESIDUAL)
    x = RNG.standard_normal((3, 4, 8, 8)).astype(np.float32)
    program = compile_model(model, "ideal", verify=True).need_program()
    found = Chip(program).run({"x": x})
    np.testing.assert_allclose(found["y"], outputs(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_bias_normalisation_and_added_vectors_merge_behind_the_crossbar() -> None:
    program = compile_model(weighted(RESIDUAL), "ideal").need_program()
    merged = {step.layer: len(step.nodes) - 1 for step in program.vmm_steps}
    assert list(merged.values()) == [1, 0, 1]  # the normalisation; not the residual; the added bias
    where = {row.op_type: row for row in program.placements}
    assert "merged" in where["BatchNormalization"].why


def test_digital_nodes_between_crossbars_are_one_segment() -> None:
    program = compile_model(weighted(RESIDUAL), "ideal").need_program()
    kinds = [step.kind for step in program.steps]
    assert kinds == ["vmm", "digital", "vmm", "digital", "vmm"]


def test_parallel_branches_share_their_segments() -> None:
    """Two branches of equal depth need no more segments than one."""
    model = weighted(
        """<ir_version: 8, opset_import: ["" : 17]>
        branches (float[n, 8] x) => (float[n, 8] y) <float[8, 8] a, float[8, 8] b, float[8, 8] c, float[8, 8] d> {
            a1 = MatMul (x, a)
            a2 = Relu (a1)
            a3 = MatMul (a2, b)
            b1 = MatMul (x, c)
            b2 = Tanh (b1)
            b3 = MatMul (b2, d)
            s = Add (a3, b3)
            y = Sigmoid (s)
        }"""
    )
    program = compile_model(model, "ideal", verify=True).need_program()
    assert [len(step.nodes) for step in program.steps if isinstance(step, DigitalStep)] == [2, 2]
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(Chip(program).run({"x": x})["y"], outputs(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_a_product_that_the_user_reads_is_not_merged() -> None:
    model = weighted(
        """<ir_version: 8, opset_import: ["" : 17]>
        seen (float[n, 8] x) => (float[n, 4] z, float[n, 4] y) <float[8, 4] w, float[4] b> {
            z = MatMul (x, w)
            y = Add (z, b)
        }"""
    )
    program = compile_model(model, "ideal", verify=True).need_program()
    (step,) = program.vmm_steps
    assert step.output == "z"
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    for found, expected in zip(Chip(program).run({"x": x}).values(), outputs(model, x=x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_a_loop_body_takes_from_outside_reaches_its_segment() -> None:
    model = weighted(
        """<ir_version: 8, opset_import: ["" : 17]>
        loop (float[n, 8] x) => (float[n, 8] y) <float[8, 8] w, float[8] k> {
            h = MatMul (x, w)
            trips = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            y = Loop (trips, yes, x) <body = step (int64 i, bool c, float[n, 8] before) => (bool more, float[n, 8] after) {
                more = Identity (c)
                add = Add (before, h)
                after = Mul (add, k)
            }>
        }"""
    )
    program = compile_model(model, "ideal", verify=True).need_program()
    assert [step.kind for step in program.steps] == ["vmm", "digital"]
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    np.testing.assert_allclose(Chip(program).run({"x": x})["y"], outputs(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_values_between_segments_are_typed_whoever_knows_their_type() -> None:
    """ONNX's inference knows ReduceMean, only ONNX Runtime knows its own Gelu; both values cross to a later segment."""
    model = weighted(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        cross (float[n, 8] x, float[9, 8] table) => (float[n, 8] y) <float[8, 8] w, float[8, 8] v> {
            t = ReduceMean <axes = [0]> (table)
            h = MatMul (x, w)
            g = com.microsoft.Gelu (h)
            k = MatMul (g, v)
            s = Add (k, g)
            y = Add (s, t)
        }"""
    )
    x, table = (RNG.standard_normal((n, 8)).astype(np.float32) for n in (3, 9))
    found = Chip(compile_model(model, "ideal", verify=True).need_program()).run({"x": x, "table": table})
    np.testing.assert_allclose(found["y"], outputs(model, x=x, table=table)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["w", "x"])
def test_an_output_that_is_a_constant_or_an_input(source: str) -> None:
    model = weighted(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        odd (float[2, 8] x) => (float[2, 8] same, float[2, 8] y) <float[8, 8] w, float[2, 8] k> {{
            same = Identity ({"k" if source == "w" else "x"})
            y = MatMul (x, w)
        }}"""
    )
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    found = Chip(compile_model(model, "ideal", verify=True).need_program()).run({"x": x})
    assert list(found) == ["same", "y"]
    np.testing.assert_allclose(found["same"], outputs(model, x=x)[0])


def test_text() -> None:
    """A snapshot of the form alone."""
    model = weighted(
        """<ir_version: 8, opset_import: ["" : 17]>
        small (float[n, 1, 6, 6] x) => (float[n, 4] y) <float[2, 1, 3, 3] w, float[2] b, float[32, 4] v> {
            c = Conv (x, w, b)
            r = Relu (c)
            f = Flatten (r)
            y = MatMul (f, v)
        }"""
    )
    program = compile_model(model, "ideal", settings={"array.rows": 16, "array.columns": 8}).need_program()
    lines = [line.split(" {")[0].strip() for line in print_program(program).splitlines()]
    words = ("input", "output", "layer", "block", "%")
    assert [line for line in lines if line.startswith(words)] == [
        'input %x: float32["n", 1, 6, 6]',
        'output %y: float32["n", 4]',
        "layer @Conv_0",
        "block 0.0.0: 9 x 4 at 0.2[0, 0]",
        "layer @MatMul_0",
        "block 0.0.0: 16 x 8 at 0.0[0, 0]",
        "block 0.1.0: 16 x 8 at 0.1[0, 0]",
        "%c = vmm @Conv_0(%x)",
        "%f = digital @digital1(%c)",
        "%y = vmm @MatMul_0(%f)",
    ]
    assert isinstance(program.steps[0], VmmStep)


def test_a_segment_that_lacks_data_is_refused_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be when it is loaded; else the data would be read from wherever the process stands."""
    elsewhere = ir.ExternalTensor("elsewhere.bin", 0, 40, ir.DataType.FLOAT, shape=ir.Shape([10]), name="b3")
    monkeypatch.setattr(segments, "_tensor", lambda value, outside: elsewhere)
    with pytest.raises(VerifyError, match="lie in a file"):
        compile_model(weighted(RESIDUAL.replace("y = Add (d, b3)", "e = Relu (d)  y = Mul (e, b3)")), "ideal")
