"""Gradients against central differences of the forward operator, both run by ONNX Runtime.

A case is one node. Its output is weighed by random numbers r and summed, so that the loss is L = Σ r·y. Each element of each
real input is moved by ±h, and (L₊ - L₋)/2h is compared with the gradient that the rules give.

Types and steps. Double where ONNX Runtime has a double kernel: with h = 1e-5 the truncation, h²·f‴/6, is about 1e-10 and the
rounding, ε·L/h, about 1e-10, so 1e-6 is a safe bound. `FLOAT_ONLY` operators have none. Those of them that are linear in each
input have no truncation, whatever the step: h = 1/2 leaves the rounding, about 1e-6. For the others no step in float is good
(2⁻⁷ leaves 1e-3), so their differences come from ONNX's reference evaluator in double, which must agree with ONNX Runtime on y;
the gradient still is ONNX Runtime's, in float, with its rounding of about 1e-6. SciPy stands in where that evaluator rounds to
float. GlobalMaxPool, which it gets wrong, is linear as long as the step is below the gaps between elements.

Every case runs twice: with static shapes and constant integer inputs, and with all sizes open and integer inputs given at run
time, because rules take other ways there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from scipy.special import erf, ndtr

from cimc.passes.gradients.build import backward
from cimc.passes.gradients.survey import OPSET

Array = NDArray[Any]

#: Operators that ONNX Runtime 1.32 has no double kernel for on the CPU, or not for their gradient; Shrink has one that rounds to
#: float.
FLOAT_ONLY = {
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "Celu", "Conv", "ConvTranspose", "Cosh", "DepthToSpace",
    "Elu", "Erf", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LeakyRelu", "LpPool", "LRN", "Mean", "MeanVarianceNormalization", "Mish", "PRelu", "Resize", "Selu", "Shrink", "Sinh",
    "Softplus", "Softsign", "SpaceToDepth", "Tan", "ThresholdedRelu",
}  # fmt: skip
#: Step for operators that are linear in each input, at least over that step.
LINEAR_STEP = {
    "AveragePool": 0.5, "Conv": 0.5, "ConvTranspose": 0.5, "DepthToSpace": 0.5, "GlobalAveragePool": 0.5,
    "GlobalMaxPool": 2.0**-5, "Mean": 0.5, "Resize": 0.5, "SpaceToDepth": 0.5,
}  # fmt: skip


def local_response(x: Array, size: int, alpha: float, beta: float = 0.75, bias: float = 1.0) -> Array:
    """LRN by its definition; the reference evaluator leaves out the upper half of the window."""
    padded = np.pad(x**2, [(0, 0), (size // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
    return np.asarray(x / (bias + alpha / size * sum(padded[:, k : k + x.shape[1]] for k in range(size))) ** beta)


def standardised(x: Array, axes: Sequence[int] = (0, 2, 3)) -> Array:
    """MeanVarianceNormalization, whose body has constants of float."""
    return np.asarray((x - x.mean(tuple(axes), keepdims=True)) / x.std(tuple(axes), keepdims=True))


CLOSED_FORMS: dict[str, Callable[..., Array]] = {
    "Erf": erf, "Gelu": lambda x: x * ndtr(x), "LRN": local_response, "MeanVarianceNormalization": standardised,
}  # fmt: skip
ort.set_default_logger_severity(4)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal numbers, none nearer than 0.02 to zero, so that kinks at zero are not straddled."""
    x = rng(seed + 31 * len(shape)).standard_normal(shape)
    return np.asarray(x + np.copysign(0.02, x))


def distinct(*shape: int, seed: int = 0) -> Array:
    """Shuffled numbers at least 0.1 apart and 0.05 off zero: no ties, no kinks."""
    size = int(np.prod(shape))
    return rng(seed).permutation(np.arange(size) * 0.1 - size * 0.05 + 0.051).reshape(shape)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def forward_model(
    op: str, feeds: dict[str, Array], names: Sequence[str], constants: set[str], outputs: int, out: int,
    attributes: dict[str, Any], dynamic: bool, fixed: set[str],
) -> onnx.ModelProto:  # fmt: skip
    """y = op(...), loss = Σ r·y."""
    results = [f"y{i}" for i in range(outputs)]
    nodes = [
        helper.make_node(op, names, results, name="node under test", **attributes),
        helper.make_node("Mul", [f"y{out}", "r"], ["weighed"], name="weigh"),
        helper.make_node("ReduceSum", ["weighed"], ["loss"], name="sum", keepdims=0),
    ]
    inputs, initializers = [], []
    for name, array in feeds.items():
        if name in constants:
            initializers.append(onnx.numpy_helper.from_array(array, name))
            continue
        shape = [f"{name}_{i}" if dynamic and name not in fixed else d for i, d in enumerate(array.shape)]
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    kind = helper.np_dtype_to_tensor_dtype(feeds["r"].dtype)
    shape = [None] * feeds["r"].ndim
    values = [helper.make_tensor_value_info(f"y{out}", kind, shape), helper.make_tensor_value_info("loss", kind, [])]
    graph = helper.make_graph(nodes, "case", inputs, values, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def forward(
    op: str, feeds: dict[str, Array], names: Sequence[str], constants: set[str], outputs: int, out: int,
    attributes: dict[str, Any], kind: type[np.floating[Any]],
) -> Callable[[dict[str, Array]], Array]:  # fmt: skip
    """The forward node as a function: by ONNX Runtime, or by the reference evaluator for doubles that it has no kernel for."""
    one = np.zeros((), kind)
    model = forward_model(op, {**feeds, "r": one}, names, constants, outputs, out, attributes, False, set())
    run = ReferenceEvaluator(model) if op in FLOAT_ONLY and kind is np.float64 else session(model)

    def evaluate(changed: dict[str, Array]) -> Array:
        given = {n: np.asarray(changed[n], a.dtype) for n, a in feeds.items() if n not in constants}
        return np.asarray(run.run([f"y{out}"], {**given, "r": one})[0], np.float64)

    return evaluate


def closed_form(op: str, attributes: dict[str, Any]) -> Callable[[dict[str, Array]], Array]:
    return lambda feeds: CLOSED_FORMS[op](np.asarray(feeds["x0"], np.float64), **attributes)


def run_gradients(model: onnx.ModelProto, feeds: dict[str, Array], wrt: Sequence[str]) -> list[Array]:
    """Outputs of the backward model, after those of the forward model: the gradients."""
    step = ir.to_proto(backward(ir.from_proto(model), "loss", wrt))
    onnx.checker.check_model(step)
    runtime = session(step)
    given = {i.name: feeds[i.name] for i in runtime.get_inputs()}
    return list(runtime.run([f"{name}.grad" for name in wrt], given))


def check(
    op: str, *inputs: Array | None, outputs: int = 1, out: int = 0, fixed: Sequence[int] = (), constants: Sequence[int] = (),
    skip: Sequence[int] = (), dynamic: Sequence[bool] = (False, True), single: bool | None = None, **attributes: Any,
) -> None:  # fmt: skip
    """Compare all gradients of one node with central differences.

    ``fixed``: inputs whose sizes stay static, as a weight's do; ``constants``: inputs that are always initializers; ``skip``:
    real inputs without a gradient.
    """
    single = op in FLOAT_ONLY if single is None else single
    kind = np.float32 if single else np.float64
    reference = single and op not in LINEAR_STEP
    h, bound = (LINEAR_STEP[op], 2e-5) if single and not reference else (1e-5, 1e-5 if single else 1e-6)
    given = [None if a is None else np.asarray(a, kind) if np.asarray(a).dtype == np.float64 else np.asarray(a) for a in inputs]
    names = ["" if a is None else f"x{i}" for i, a in enumerate(given)]
    feeds = {n: a for n, a in zip(names, given, strict=True) if a is not None}
    wrt = [n for i, (n, a) in enumerate(zip(names, given, strict=True)) if a is not None and a.dtype == kind and i not in skip]
    for open_sizes in dynamic:
        fixed_now = {n for n, a in feeds.items() if n not in wrt and not open_sizes} | {f"x{i}" for i in constants}
        keep = {f"x{i}" for i in fixed} | {n for n in feeds if n not in wrt}
        evaluate = forward(op, feeds, names, fixed_now, outputs, out, attributes, kind)
        if reference:
            y = evaluate(feeds)
            doubles = {n: np.asarray(a, np.float64) if n in wrt else a for n, a in feeds.items()}
            evaluate = forward(op, doubles, names, fixed_now, outputs, out, attributes, np.float64)
            if op in CLOSED_FORMS:
                evaluate = closed_form(op, attributes)
            np.testing.assert_allclose(y, evaluate(feeds), rtol=1e-5, atol=1e-5, err_msg=f"{op}: the two evaluators differ")

        weights = rng(7).uniform(0.5, 1.5, evaluate(feeds).shape).astype(kind)
        full = {**feeds, "r": weights}
        model = forward_model(op, full, names, fixed_now, outputs, out, attributes, open_sizes, keep)
        for name, grad in zip(wrt, run_gradients(model, full, wrt), strict=True):
            numeric = np.zeros(feeds[name].shape)
            for index in np.ndindex(*feeds[name].shape):
                sides = []
                for sign in (h, -h):
                    moved = np.asarray(feeds[name], np.float64 if reference else kind).copy()
                    moved[index] += sign
                    sides.append(evaluate({**feeds, name: moved}))
                numeric[index] = ((sides[0] - sides[1]) * weights).sum() / (2 * h)
            scale = np.maximum(1, np.abs(numeric))
            assert grad.shape == numeric.shape, f"{name}: {grad.shape}, not {numeric.shape}"
            where = f"{op} {name} open={open_sizes}"
            np.testing.assert_allclose(grad / scale, numeric / scale, atol=bound, rtol=0, err_msg=where)
