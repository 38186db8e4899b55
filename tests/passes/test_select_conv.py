"""Convolutions of every rank, group, stride, dilation and padding against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cimc.ir.geometry import WeightView
from cimc.passes.selection.packing import group_packing
from cimc.targets.description import Array, Mapping, Target

from .vmm_reference import build, oracle, parse, products, same, select

RNG = np.random.default_rng(1)
ANALOG = Target(name="analog", mapping=Mapping(depthwise="analog"))


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ort_takes(model: onnx.ModelProto, inputs: dict[str, Any]) -> bool:
    try:
        oracle(model, inputs)
    except Exception:
        return False
    return True


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    axis = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    attributes: dict[str, Any] = {"kernel_shape": axis(1, 3)}
    if draw(st.booleans()):
        attributes["strides"] = axis(1, 3)
    if draw(st.booleans()):
        attributes["dilations"] = axis(1, 2)
    padding = draw(st.sampled_from(["NOTSET", "explicit", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "explicit":
        attributes["pads"] = axis(0, 2) + axis(0, 2)
    elif padding != "NOTSET":
        attributes["auto_pad"] = padding
    if draw(st.booleans()):
        attributes["group"] = draw(st.integers(1, 3))
    return attributes


@given(attributes=windows(), bias=st.booleans(), named_kernel=st.booleans(), inner=st.integers(1, 2), outer=st.integers(1, 2))
@settings(max_examples=80, deadline=None)
def test_conv(attributes: dict[str, Any], bias: bool, named_kernel: bool, inner: int, outer: int) -> None:
    kernel, groups = attributes["kernel_shape"], attributes.get("group", 1)
    x, w = real(2, groups * inner, *([7, 6, 5][: len(kernel)])), real(groups * outer, inner, *kernel)
    constants = {"w": w} | ({"b": real(groups * outer)} if bias else {})
    if not named_kernel:
        attributes = {k: v for k, v in attributes.items() if k != "kernel_shape"}
    model = build("Conv", {"x": x}, constants, **attributes)
    assume(ort_takes(model, {"x": x}))
    (vmm,) = products(same(model, {"x": x}, ANALOG))
    assert vmm.attributes.get_int("channel_rows", 1) == np.prod(kernel)


@given(attributes=windows(), bias=st.booleans(), inner=st.integers(1, 2), outer=st.integers(1, 2), data=st.data())
@settings(max_examples=80, deadline=None)
def test_conv_transpose(attributes: dict[str, Any], bias: bool, inner: int, outer: int, data: st.DataObject) -> None:
    kernel, groups = attributes["kernel_shape"], attributes.get("group", 1)
    rank = len(kernel)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    spatial = [4, 3, 3][:rank]
    x, w = real(2, groups * inner, *spatial), real(groups * inner, outer, *kernel)
    constants = {"w": w} | ({"b": real(groups * outer)} if bias else {})
    form = data.draw(st.sampled_from(["plain", "output_padding", "output_shape"]))
    if form == "output_padding":
        attributes["output_padding"] = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    elif form == "output_shape":
        attributes["output_shape"] = [n * s + data.draw(st.integers(0, 1)) for n, s in zip(spatial, strides, strict=True)]
    model = build("ConvTranspose", {"x": x}, constants, **attributes)
    assume(ort_takes(model, {"x": x}))
    assert len(products(same(model, {"x": x}, ANALOG))) == 1


def test_depthwise_stays_digital_unless_asked() -> None:
    model = build("Conv", {"x": real(1, 4, 5, 5)}, {"w": real(4, 1, 3, 3)}, group=4)
    state = select(model)
    assert not products(state)
    assert "--set mapping.depthwise=analog" in state.placements["conv"].why
    assert len(products(select(model, ANALOG))) == 1


@pytest.mark.parametrize(("groups", "array", "packing"), [(6, (64, 64), 6), (6, (40, 64), 3), (6, (64, 8), 2), (5, (40, 64), 1)])
def test_group_packing_is_the_largest_divisor_that_fits(groups: int, array: tuple[int, int], packing: int) -> None:
    target = Target(name="small", array=Array(rows=array[0], columns=array[1]))
    view = WeightView(tensor="w", split=(groups, 2, 9), perm=(0, 2, 1), shape=(groups, 9, 2))
    assert group_packing(view, target) == packing


def test_shared_weights_are_one_layer() -> None:
    proto = parse("g (float[1,2,5,5] x) => (float[1,2,1,1] z) { [a] y = Conv (x, w)  [b] z = Conv (y, w) }", w=real(2, 2, 3, 3))
    state = same(proto, {"x": real(1, 2, 5, 5)})
    assert [n.attributes.get_string("layer") for n in products(state)] == ["w", "w"]
    assert [n.name for n in products(state)] == ["a", "b"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_bias_known_only_at_run_time_is_added_digitally(op: str) -> None:
    inputs = {"x": real(1, 2, 4, 4), "b": real(2)}
    state = same(build(op, inputs, {"w": real(2, 2, 3, 3)}, order=["x", "w", "b"]), inputs)
    assert [n.op_type for n in state.model.graph] == ["Vmm", "Reshape", "Add"]
