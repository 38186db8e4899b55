"""What no conductance stands for: NaN and Inf in a weight, and doubles beyond float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from cimc.errors import ModelError
from cimc.passes.selection.placement import OWNER

if TYPE_CHECKING:
    from cimc.passes.selection.site import Product

_CHUNK = 1 << 20


def beyond_float32(weight: ir.Value) -> float | None:
    """The first finite entry of a weight of doubles that float32 cannot hold; None: there is none."""
    if weight.const_value is None or weight.const_value.dtype != ir.DataType.DOUBLE:
        return None
    flat = weight.const_value.numpy().reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        found = np.flatnonzero(np.isfinite(chunk) & (np.abs(chunk) > np.finfo(np.float32).max))
        if found.size:
            return float(chunk[found[0]])
    return None


def check_finite(products: Iterable[Product]) -> None:
    """Refuse NaN and Inf, streaming: a sum is finite if all terms are, so only a suspicious chunk is looked at closely.

    Raises:
        ModelError: It names the node, the initializer and the place.
    """
    seen: set[str | None] = set()
    for product in products:
        if product.weight.name in seen or product.weight.const_value is None:
            continue
        seen.add(product.weight.name)
        array = product.weight.const_value.numpy()
        if array.size and not any(array.strides):
            array = array.reshape(-1)[:1] if array.ndim == 0 else array[(slice(0, 1),) * array.ndim]
        flat = array.reshape(-1)
        narrow = flat.dtype.itemsize < 4
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            chunk = chunk.astype(np.float32) if narrow else chunk
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(chunk.sum()) or np.isfinite(chunk).all()
            if not finite:
                position = start + int(np.flatnonzero(~np.isfinite(chunk))[0])
                where = tuple(int(i) for i in np.unravel_index(position, product.weight.const_value.shape.numpy()))
                raise ModelError(
                    f"weight '{product.weight.name}' holds {chunk[position - start]} at {list(where)}; no conductance can",
                    where=f"node '{product.node.metadata_props[OWNER]}'",
                    fix="export the model again from finite weights",
                )
