"""Single changes of JSON trees and of named arrays, each told in words."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
_OTHERS: tuple[Any, ...] = (None, True, 0, -1, 1.5, "absent", "", [], [1, 2], {}, {"kind": "absent"}, 2**40)
_KINDS = ("float64", "float32", "float16", "int64", "int32", "uint32", "uint8", "bool")


def pick(random: Random, items: Any) -> Any:
    """One of the items."""
    return items[int(random.integers(len(items)))]


def mutate_json(tree: Any, random: Random) -> tuple[str, Any]:
    """A copy of a JSON tree with one change; leaves and containers at any depth are equally likely."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree, ""))
    path, parent, key = pick(random, places)
    old = parent[key]
    if isinstance(parent, dict) and random.random() < 0.05:
        del parent[key]
        return f"{path} dropped", tree
    new = deepcopy(_changed(old, random, [p[key] for _, p, key in places]))  # a part may go into itself
    parent[key] = new
    return f"{path}: {_short(old)} -> {_short(new)}", tree


def _places(tree: Any, path: str) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield f"{path}.{key}", tree, key
        yield from _places(value, f"{path}.{key}")


def _changed(old: Any, random: Random, others: list[Any]) -> Any:
    if random.random() < 0.15:
        return pick(random, _OTHERS)
    if random.random() < 0.1:
        return pick(random, others)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return pick(random, (0, -1, 1, old + 1, old - 1, -old, 2 * old, 2**31 - 1, 2**31, 2**63, -(2**63), 2**70, old + 100000))
    if isinstance(old, float):
        return pick(random, (0.0, -1.0, -old, 2 * old, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 1e30, 1e-30))
    if isinstance(old, str):
        same = [value for value in others if isinstance(value, str)]
        return pick(random, ("", "absent", old + "x", "../" + old, pick(random, same), pick(random, same)))
    if isinstance(old, list):
        k = int(random.integers(len(old))) if old else 0
        return pick(
            random,
            (
                [],
                old[:-1],
                old[1:],
                old[:k] + old[k + 1 :],
                old[: k + 1] + old[k:],
                old[::-1],
                old + old[-1:],
                [*old, 2**31],
                old * 2,
            ),
        )
    if isinstance(old, dict):
        return pick(random, ({}, {**old, "absent": 1}, dict(list(old.items())[1:]), pick(random, others)))
    return pick(random, _OTHERS)


def mutate_arrays(arrays: dict[str, NDArray[Any]], random: Random) -> tuple[str, dict[str, NDArray[Any]]]:
    """Named arrays with one change: of an element, a shape, a dtype, a name; arrays are copied where they change."""
    name = pick(random, sorted(arrays))
    other = pick(random, sorted(arrays))
    old, kind = arrays[name], pick(random, ("drop", "rename", "copy", "swap", *["value"] * 10, *["shape"] * 6, *["dtype"] * 4))
    if kind == "drop":
        return f"{name} dropped", {key: array for key, array in arrays.items() if key != name}
    if kind == "rename":
        return f"{name} renamed", {f"{key}x" if key == name else key: array for key, array in arrays.items()}
    if kind == "copy":
        return f"{name} added as {other}x", {**arrays, f"{other}x": old}
    if kind == "swap":
        return f"{name} and {other} swapped", {**arrays, name: arrays[other], other: old}
    what, new = {"value": _value, "shape": _shape, "dtype": _dtype}[kind](old, random)
    return f"{name}: {what}", {**arrays, name: new}


def _value(old: NDArray[Any], random: Random) -> tuple[str, NDArray[Any]]:
    new = np.array(old)
    if not new.size:
        return "as it was", new
    at = slice(None) if random.random() < 0.2 else int(random.integers(new.size))
    flat = new.reshape(-1)
    if new.dtype.kind in "iu":
        ends = np.iinfo(new.dtype)
        value = pick(random, (0, 1, ends.max, ends.min, ends.max // 2))
        change = pick(random, ("+1", "-1", "=", "="))
        with np.errstate(all="ignore"):
            flat[at] = value if change == "=" else flat[at] + np.asarray(1 if change == "+1" else -1).astype(new.dtype)
        return f"[{at}] {change} {value}", new
    if new.dtype.kind == "b":
        flat[at] = ~flat[at]
        return f"[{at}] inverted", new
    value = pick(random, (0.0, -1.0, np.nan, np.inf, -np.inf, 1e30, 1e-38))
    with np.errstate(all="ignore"):
        flat[at] = value
    return f"[{at}] = {value}", new


def _shape(old: NDArray[Any], random: Random) -> tuple[str, NDArray[Any]]:
    flat = old.reshape(-1)
    shapes = [flat[:-1], flat[:0], np.concatenate([flat, flat]), flat, flat[None], old[..., None], flat[:1].reshape(())
              if flat.size else flat]  # fmt: skip
    if old.ndim:
        shapes += [
            old[:-1],
            old[1:],
            np.concatenate([old, old[:1]]),
            old[..., :-1],
            np.moveaxis(old, -1, 0),
            np.repeat(old, 2, -1),
        ]
    new = np.ascontiguousarray(pick(random, shapes))
    return f"{list(old.shape)} -> {list(new.shape)}", new


def _dtype(old: NDArray[Any], random: Random) -> tuple[str, NDArray[Any]]:
    kind = pick(random, [kind for kind in _KINDS if kind != old.dtype.name])
    with np.errstate(all="ignore"):
        try:
            return f"{old.dtype} -> {kind}", old.astype(kind)
        except (TypeError, ValueError):
            return f"{old.dtype} as it was", old


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
