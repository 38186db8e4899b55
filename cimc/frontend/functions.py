"""Model functions before any library inlines them: no recursion, and a limit to what they unfold to.

Some kilobytes of functions that call the next one twice unfold to more nodes than any machine holds, and the inliners of some
onnx releases crash on recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from cimc.errors import ModelError
from cimc.frontend.normal import subgraphs

#: Nodes of a model with its functions unfolded, and calls within calls.
MOST_NODES, MOST_DEPTH = 100_000, 100

Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto, where: str) -> None:
    """Refuse functions that cannot be inlined; subgraphs are looked into.

    Raises:
        ModelError: A function calls itself, calls are nested too deep, or the model unfolds to too many nodes.
    """
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    if not bodies:
        return
    calls = {key: [k for k in _operators(body.node) if k in bodies] for key, body in bodies.items()}
    nodes = {key: sum(1 for _ in _operators(body.node)) for key, body in bodies.items()}
    depths = dict.fromkeys(bodies, 1)
    for key in _inner_first(calls, where):
        nodes[key] += sum(nodes[inner] for inner in calls[key])
        depths[key] += max((depths[inner] for inner in calls[key]), default=0)
    called = [key for key in _operators(model.graph.node) if key in bodies]
    total = sum(1 for _ in _operators(model.graph.node)) + sum(nodes[key] for key in called)
    depth = max((depths[key] for key in called), default=0)
    for count, most, what in ((depth, MOST_DEPTH, "nested calls"), (total, MOST_NODES, "nodes")):
        if count > most:
            raise ModelError(
                f"its functions unfold to {count:.3g} {what}, more than {most}", where=where, fix="export without local functions"
            )


def _operators(nodes: Any) -> Iterator[Key]:
    """Domain, name and overload of each node, those of subgraphs included. Parsing bounds the depth of subgraphs."""
    for node in nodes:
        yield node.domain, node.op_type, node.overload
        for graph in subgraphs(node):
            yield from _operators(graph.node)


def _inner_first(calls: dict[Key, list[Key]], where: str) -> Iterator[Key]:
    """Each function behind those that it calls, without recursion.

    Raises:
        ModelError: A function calls itself, directly or through others.
    """
    done: set[Key] = set()
    for start in calls:
        open_: dict[Key, Iterator[Key]] = {start: iter(calls[start])} if start not in done else {}
        while open_:
            key = next(reversed(open_))
            inner = next((k for k in open_[key] if k not in done), None)
            if inner is None:
                del open_[key]
                done.add(key)
                yield key
            elif inner in open_:
                names = list(open_)[list(open_).index(inner) :]
                cycle = " -> ".join(f"{k[0]}::{k[1]}" for k in [*names, inner])
                raise ModelError(f"a function calls itself: {cycle}", where=where, fix="write the recursion as a Loop")
            else:
                open_[inner] = iter(calls[inner])
