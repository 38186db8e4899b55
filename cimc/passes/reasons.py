"""Why a rewrite does not apply: a line in the log, which `cimc compile --verbose` shows."""

from __future__ import annotations

import logging

import onnx_ir as ir

log = logging.getLogger(__name__)


def not_applied(rewrite: str, what: ir.Node | ir.Value, why: str) -> None:
    """Log that a rewrite leaves something as it is.

    Args:
        rewrite: What the rewrite does, as "folding".
        what: The node or value that it could have been applied to.
        why: The condition that does not hold.
    """
    kind = f"node '{what.name}' ({what.op_type})" if isinstance(what, ir.Node) else f"value '{what.name}'"
    log.info("%s: not %s: %s", kind, rewrite, why)
