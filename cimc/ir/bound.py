"""Inputs of a model that became constants when it was compiled: data for them must not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError


def without_bound(given: Mapping[str, Any], bound: Mapping[str, NDArray[Any]], where: str) -> dict[str, Any]:
    """The arrays that are no bound inputs.

    Args:
        given: By name.
        bound: Inputs that were bound to a value when the model was compiled.
        where: For the message.

    Raises:
        DataError: One of them has another value.
    """
    for name in bound.keys() & given.keys():
        if not np.array_equal(np.asarray(given[name]).reshape(-1), bound[name].reshape(-1)):
            told = f" ({bound[name].reshape(-1)[0]})" if bound[name].size == 1 else ""
            fix = f"leave it out, or compile the model again with another value of {name}"
            raise DataError(f"the model was compiled with another value of {name}{told}", where=where, fix=fix)
    return {name: value for name, value in given.items() if name not in bound}
