"""Graph passes, text in and text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import cimc
from cimc.passes.base import Compilation, Pass
from cimc.passes.legalise import Legalise
from cimc.passes.manager import PassManager
from tests.passes.vmm_reference import IDEAL, oracle


def through(model: onnx.ModelProto, *passes: Pass) -> Compilation:
    """The compilation of a model for an ideal chip after these passes, each checked; the model itself stays."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    return PassManager(passes).run(Compilation(ir.from_proto(copy), IDEAL))


def nodes(model: ir.Model | onnx.ModelProto) -> list[str]:
    """A line for each node of the main graph, with the spaces that ONNX's printer has between words."""
    graph = model if isinstance(model, ir.Model) else ir.from_proto(model)
    text = ir.to_onnx_text(graph, exclude_initializers=True)
    return [line.strip() for line in text.partition("{")[2].splitlines() if "=" in line]


def new_nodes(model: onnx.ModelProto, *passes: Pass, before: Sequence[Pass] = (Legalise(),)) -> list[str]:
    """The lines that the passes change; ``before`` runs first."""
    state = through(model, *before)
    known = nodes(state.model)
    return [line for line in nodes(PassManager(passes).run(state).model) if line not in known]


def same_results(model: onnx.ModelProto, feeds: Mapping[str, Any], *passes: Pass, **options: Any) -> Compilation:
    """Assert that ONNX Runtime gives the same for the graph before and after the passes, and an ideal chip to the last bits.

    Args:
        model: Before.
        feeds: Its inputs.
        passes: Run after `legalise`.
        options: Of the compilation for the chip.
    """
    state = through(model, Legalise(), *passes)
    after = ir.to_proto(state.model)
    onnx.checker.check_model(after, full_check=True)
    inputs = {value.name for value in after.graph.input}
    want = oracle(model, feeds)
    for got, expected in zip(oracle(after, {n: a for n, a in feeds.items() if n in inputs}), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    chip = cimc.Chip(cimc.compile(model, "ideal", **options))
    found = chip.run({spec.name: feeds[spec.name] for spec in chip.program.inputs})
    for (name, got), expected in zip(found.items(), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=name)
    return state
