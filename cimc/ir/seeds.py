"""Random operators that draw the same numbers in each ONNX Runtime session."""

from __future__ import annotations

import onnx_ir as ir

#: Operators whose seed is a real number; that of Dropout is whole.
REAL_SEEDED = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def fix_seeds(model: ir.Model) -> None:
    """Give random operators a seed, in place; those in bodies too. One that has a seed gets this one."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in REAL_SEEDED:
            node.attributes["seed"] = ir.AttrFloat32("seed", 1.0)
        elif node.op_type == "Dropout" and len(node.inputs) > 2:  # before it had training_mode it drew nothing
            node.attributes["seed"] = ir.AttrInt64("seed", 1)
