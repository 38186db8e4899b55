"""Parameters that train through the expression by which a crossbar's weight W is computed from them, such as a weight norm.

Example::

    n = ReduceL2 (v)    d = Div (v, n)    W = Mul (d, g)    y = MatMul (x, W)

`fold` has made one constant of W and kept the recipe. The training program finds the gradient of W, and
`cimc.training.expressions` takes it through the recipe to v and g.
"""

from __future__ import annotations

from collections.abc import Sequence

from cimc.errors import ModelError
from cimc.ir.program import Parameter
from cimc.passes.recipes import Recipes
from cimc.passes.selection.operand import FLOATS
from cimc.passes.training.plan import Candidate, fits


def find_expressions(found: Sequence[Candidate], recipes: Recipes) -> None:
    """Note of each crossbar's weight which parameters are behind it, if it is computed from some.

    A weight that only rearranges or casts a parameter trains by itself, in its place, if nothing else that trains has the same
    entries.
    """
    present = {str(one.value.name) for one in found if not one.excluded}
    for one in found:
        name = str(one.value.name)
        if one.layers and name in recipes.made:
            part = recipes.behind([name])
            if not (part.moves_only and all(_own(recipes, source, name, present) for source in part.sources)):
                one.behind = part.parameters


def _own(recipes: Recipes, source: str, name: str, present: set[str]) -> bool:
    """Whether none of the values ``present`` has the entries of a source that a weight has."""
    others = present & (recipes.readers(source) | {source}) - {name}
    if recipes.sources[source].dtype not in FLOATS or not others:
        return True
    return recipes.disjoint(source, {name, *(others & recipes.made)}, source in others)


def expressions(
    found: Sequence[Candidate], recipes: Recipes, trainable: Sequence[str], frozen: Sequence[str]
) -> dict[str, list[Candidate]]:
    """Parameters that train through expressions, each with the weights that are computed from it.

    A weight of which no parameter trains does not train; its `Candidate.excluded` says so.

    Raises:
        ModelError: A parameter is a crossbar's own weight too, or goes into the weight of a layer that does not train.
    """
    computed = [one for one in found if one.behind]
    own = {str(one.value.name): one for one in found if one.layers}
    chosen: dict[str, list[Candidate]] = {}
    for one in computed:
        if one.excluded:
            continue
        sources = [name for name in one.behind if not fits([name], frozen)]
        if trainable and not fits(one.names, trainable):
            sources = [name for name in sources if fits([name], trainable)]
        if not sources:
            one.excluded = "frozen, as all that it is computed from"
        for name in sources:
            chosen.setdefault(name, []).append(one)
    for name, weights in chosen.items():
        idle = next((one for one in own.values() if one.excluded and str(one.value.name) in recipes.readers(name)), own.get(name))
        if idle is not None:
            where, other = weights[0].layers[0], idle.layers[0]
            what = "does not train" if idle.excluded else "holds it as it is"
            raise ModelError(
                f"its weight is computed from {name}, and so is that of layer {other}, which {what}: training cannot change "
                "one without the other",
                where=f"layer {where}",
                fix=f"freeze {name}, or export the model with one parameter for each layer",
            )
    return chosen


def rewritten(rows: Sequence[Parameter], through: dict[str, list[Candidate]], recipes: Recipes) -> list[Parameter]:
    """The list of what trains, with the parameters behind crossbars' weights in the place of these weights."""
    made = {str(one.value.name): one for weights in through.values() for one in weights}
    parts = {name: recipes.behind([name]) for name in made}
    listed = []
    for row in rows:
        if row.name in made:
            behind = [name for name in made[row.name].behind if name in through]
            row = row.model_copy(update={"trains": False, "why": f"computed from {', '.join(behind)}, which train"})
        elif row.name in through:
            row = row.model_copy(update={"trains": True, "into": _names(through[row.name])})
        listed.append(row)
    there = {row.name for row in rows}
    for name, weights in through.items():
        if name not in there:
            layers = dict.fromkeys(layer for one in weights for layer in one.layers)
            words = dict.fromkeys(op for one in weights for op in parts[str(one.value.name)].operators())
            why = f"through an expression ({', '.join(words)}) into crossbar {', '.join(layers)}"
            shape = tuple(int(size) for size in recipes.sources[name].shape.numpy())
            shared = tuple(layers) if len(layers) > 1 else ()
            listed.append(
                Parameter(name=name, where="crossbar", shape=shape, trains=True, why=why, shared_by=shared, into=_names(weights))
            )
    return listed


def _names(weights: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(str(one.value.name) for one in weights)
