"""Norms, products, reductions and losses against central differences, some against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .harness import check, distinct, forward_model, normal, run_gradients


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("training", [0, 1])
def test_batch_normalization(shape: tuple[int, ...], training: int) -> None:
    channels = shape[1]
    scale, offset, mean = (normal(channels, seed=s) for s in (1, 2, 3))
    variance = np.abs(normal(channels, seed=4)) + 0.5
    running: dict[str, Any] = {"skip": [3, 4], "outputs": 3 if training else 1}
    check("BatchNormalization", normal(*shape), scale, offset, mean, variance, training_mode=training, epsilon=1e-3, **running)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_normalization(axis: int) -> None:
    shape = (2, 3, 4)
    normed = shape[axis:]
    check("LayerNormalization", normal(*shape), normal(*normed, seed=1), normal(*normed, seed=2), axis=axis, epsilon=1e-3)
    check("LayerNormalization", normal(*shape), normal(4, seed=1), axis=axis)
    check("RMSNormalization", normal(*shape), normal(*normed, seed=1), axis=axis, epsilon=1e-3)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 2, 2)])
def test_instance_and_group_normalization(shape: tuple[int, ...]) -> None:
    x, scale, offset = normal(*shape), normal(4, seed=1), normal(4, seed=2)
    check("InstanceNormalization", x, scale, offset, epsilon=1e-2)
    check("GroupNormalization", x, scale, offset, num_groups=2, epsilon=1e-2, stash_type=11)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((3,), (2, 3, 2)),
        ((2, 2, 3), (3,)),
        ((2, 2, 3), (3, 2)),
        ((2, 3), (4, 3, 2)),
        ((2, 2, 3), (2, 3, 2)),
        ((2, 1, 2, 3), (3, 3, 2)),
        ((1, 2, 3), (4, 1, 3, 2)),
    ],
)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    check("MatMul", normal(*left), normal(*right, seed=1))


@pytest.mark.parametrize("transposes", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [None, (), (4,), (1, 4), (2, 1), (2, 4)])
def test_gemm(transposes: tuple[int, int], bias: tuple[int, ...] | None) -> None:
    a = normal(3, 2) if transposes[0] else normal(2, 3)
    b = normal(4, 3, seed=1) if transposes[1] else normal(3, 4, seed=1)
    c = [] if bias is None else [normal(*bias, seed=2)]
    check("Gemm", a, b, *c, alpha=0.7, beta=1.3, transA=transposes[0], transB=transposes[1])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhqd,bhkd->bhqk", [(1, 2, 2, 3), (1, 2, 4, 3)]),
        ("ij,j", [(2, 3), (3,)]),
        ("ij->ji", [(2, 3)]),
        ("ijk->j", [(2, 3, 2)]),
        ("i,i->", [(3,), (3,)]),
        ("ij,ik,kl->jl", [(2, 3), (2, 2), (2, 3)]),
        ("ij, jk -> i", [(2, 3), (3, 2)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    check("Einsum", *[normal(*shape, seed=i) for i, shape in enumerate(shapes)], equation=equation)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", [(2, 2, 3), (2, 3, 2)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 3), (1, 3, 3, 2)]),
        ("...ij,...jk", [(1, 2, 3), (2, 3, 2)]),
        ("...i->...", [(2, 2, 3)]),
        ("...ij,j->i...", [(2, 2, 3), (3,)]),
        ("...,...->...", [(2, 3), (1, 3)]),
    ],
)
def test_einsum_of_an_ellipsis_broadcasts(equation: str, shapes: list[tuple[int, ...]]) -> None:
    check("Einsum", *[normal(*shape, seed=i) for i, shape in enumerate(shapes)], equation=equation)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ii->i", [(3, 3)]), ("ii->", [(3, 3)]), ("bii,ij->bj", [(2, 3, 3), (3, 2)]), ("iji->j", [(2, 3, 2)])],
)
def test_einsum_of_a_diagonal(equation: str, shapes: list[tuple[int, ...]]) -> None:
    check("Einsum", *[normal(*shape, seed=i) for i, shape in enumerate(shapes)], equation=equation)


@pytest.mark.parametrize(("p", "axis"), [(1, 0), (1, -1), (2, 1), (2, -1)])
def test_lp_normalization(p: int, axis: int) -> None:
    check("LpNormalization", normal(2, 3, 4), p=p, axis=axis)


@pytest.mark.parametrize("p", [1, 2])
def test_a_vector_of_zeros_has_no_direction_to_go_in(p: int) -> None:
    """Nor does it make anything else NaN."""
    feeds = {"x0": normal(3, 4), "r": normal(3, 4, seed=1)}
    feeds["x0"][1] = 0
    model = forward_model("LpNormalization", feeds, ["x0"], set(), 1, 0, {"p": p}, False, set())
    (found,) = run_gradients(model, feeds, ["x0"])
    assert not found[1].any()
    others = {name: array[[0, 2]] for name, array in feeds.items()}
    model = forward_model("LpNormalization", others, ["x0"], set(), 1, 0, {"p": p}, False, set())
    np.testing.assert_array_equal(found[[0, 2]], run_gradients(model, others, ["x0"])[0])


@pytest.mark.parametrize("shape", [(2, 5, 3, 2), (1, 2, 2, 2)])
def test_lrn(shape: tuple[int, ...]) -> None:
    """Strong enough to matter: the standard's alpha of 1e-4 leaves next to nothing to check."""
    check("LRN", normal(*shape), size=3, alpha=0.6, beta=0.7, bias=1.5)
    check("LRN", normal(*shape), size=1, alpha=0.6)


def test_mean_variance_normalization_is_written_out() -> None:
    check("MeanVarianceNormalization", normal(3, 2, 2, 2))
    check("MeanVarianceNormalization", normal(3, 2, 2), axes=[0, 2])


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"]


@pytest.mark.parametrize("op", [*REDUCTIONS, "ReduceLogSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [0, 2], [-1], [-2, 0]])
def test_reductions(op: str, keepdims: int, axes: list[int] | None) -> None:
    x = distinct(2, 3, 2) if op != "ReduceLogSum" else np.abs(distinct(2, 3, 2)) + 0.2
    check(op, x, *([] if axes is None else [np.array(axes)]), keepdims=keepdims)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
def test_products_with_zeros_among_the_factors(keepdims: int, axes: list[int] | None) -> None:
    rest = [] if axes is None else [np.array(axes)]
    check("ReduceProd", np.array([[1.5, -2.0, 0.5], [0.0, 3.0, -1.0], [0.0, 2.0, 0.0]]), *rest, keepdims=keepdims)
    check("ReduceProd", normal(2, 3), *rest, keepdims=keepdims, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reduction_over_nothing(op: str) -> None:
    check(op, distinct(2, 3), keepdims=0, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_equal_extremes_share_the_gradient(op: str) -> None:
    feeds = {"x0": np.full((2, 4), 3.0), "r": np.array([[1.0], [2.0]]), "x1": np.array([1])}
    model = forward_model(op, feeds, ["x0", "x1"], {"x1"}, 1, 0, {}, False, set())
    (grad,) = run_gradients(model, feeds, ["x0"])
    np.testing.assert_allclose(grad, [[0.25] * 4, [0.5] * 4])


@pytest.mark.parametrize("op", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)])
def test_class_losses(op: str, reduction: str, weighted: bool, shape: tuple[int, ...]) -> None:
    labels = np.arange(np.prod(shape) // 3).reshape(shape[0], *shape[2:]) % 3
    weights = [np.array([0.5, 1.0, 2.0])] if weighted else []
    check(op, normal(*shape), labels, *weights, reduction=reduction, skip=[2])
    check(op, normal(*shape), labels, *weights, reduction=reduction, ignore_index=1, skip=[2])


def test_softmax_cross_entropy_log_probabilities() -> None:
    check("SoftmaxCrossEntropyLoss", normal(4, 3), np.array([0, 1, 2, 1]), outputs=2, out=1)
