"""LSTM, GRU and RNN of a static length, unrolled: one product of all inputs with W, one with R a step, gates digital."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import onnx_ir as ir

from cimc.ir.geometry import Dense
from cimc.passes.selection.activations import Activation, Writer, activations
from cimc.passes.selection.cells import Cell
from cimc.passes.selection.operand import Operand, integers
from cimc.passes.selection.registry import rule
from cimc.passes.selection.shapes import named_dims
from cimc.passes.selection.site import Site, SizeUnknown, StaysDigital

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@rule("LSTM", "GRU", "RNN", weights=(1, 2))
def recurrent(node: ir.Node, site: Site) -> Sequence[ir.Value | None]:
    """``X [T, B, I]``, ``W [D, G*H, I]``, ``R [D, G*H, H]``; ``[B, T, I]`` where layout is 1."""
    x, w, r = node.inputs[0], site.weight(node, 1), site.weight(node, 2)
    if x is None:
        raise StaysDigital("it has no input")
    batch_first = bool(node.attributes.get_int("layout", 0))
    _check_shapes(node, site, w, r, batch_first)
    steps = _steps(node, site, x, batch_first)
    functions = _functions(node, site, len(w.shape) and w.shape[0])
    directions = ["reverse"] if node.attributes.get_string("direction", "forward") == "reverse" else ["forward", "reverse"]
    runs = [
        _direction(node, site, x, (_direction_of(w, d), _direction_of(r, d)), (d, name), steps, functions[d], batch_first)
        for d, name in enumerate(directions[: w.shape[0]])
    ]
    writer = Writer(site, "out", x.dtype or ir.DataType.FLOAT)
    used = [len(node.outputs) > i and bool(node.outputs[i].name) for i in range(3)]
    y = _join(writer, [run[0](writer) for run in runs], 1) if used[0] else None
    h = _join(writer, [run[1] for run in runs], 0) if used[1] else None
    c = _join(writer, [run[2] for run in runs if run[2] is not None], 0) if used[2] else None
    if batch_first:
        y = y and writer.one("Transpose", y, perm=[2, 0, 1, 3])
        h, c = (s and writer.one("Transpose", s, perm=[1, 0, 2]) for s in (h, c))
    return [y, h, c][: len(node.outputs)]


def _check_shapes(node: ir.Node, site: Site, w: Operand, r: Operand, batch_first: bool) -> None:
    """Every operand has the shape of the operator's definition; ``hidden_size`` and ``direction`` are those of the weights.

    Raises:
        ModelError: One has not.
        StaysDigital: A shape is known only at run time.
    """
    gates = _GATES[node.op_type]
    hidden = node.attributes.get_int("hidden_size", r.shape[-1] if r.shape else 0)
    directions = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
    size = w.shape[2] if len(w.shape) == 3 else None
    for name, operand, shape in (("W", w, (directions, gates * hidden, size)), ("R", r, (directions, gates * hidden, hidden))):
        if operand.shape != shape:
            wanted = f"{directions} direction{'s' if directions > 1 else ''} and hidden_size {hidden}"
            site.refuse(f"its weight {name} has the shape {list(operand.shape)}, which is not for {wanted}")
    x, _, _, bias, lengths, *states, peepholes = (*node.inputs, *[None] * 8)[:8]
    batch: int | str | None = None
    if x is not None and x.shape is not None:
        batch = named_dims(x.shape)[0 if batch_first else 1] if len(x.shape) == 3 else None
        site.need_shape(x, (*named_dims(x.shape)[:2], size), "input", known=False)
    state = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    site.need_shape(bias, (directions, 2 * gates * hidden), "bias")
    site.need_shape(lengths, (batch,), "sequence_lens", known=False)
    for value, what in zip(states, ("initial_h", "initial_c"), strict=True):
        site.need_shape(value, state, what, known=False)
    if node.op_type == "LSTM":
        site.need_shape(peepholes, (directions, 3 * hidden), "peepholes")


Run = tuple[Callable[[Writer], ir.Value], ir.Value, ir.Value | None]


def _direction(
    node: ir.Node,
    site: Site,
    x: ir.Value,
    weights: tuple[Operand, Operand],
    direction: tuple[int, str],
    steps: int,
    functions: Sequence[Activation],
    batch_first: bool,
) -> Run:
    """One direction: its outputs as a maker of ``[T, 1, B, H]``, the last ``h`` and ``c`` as ``[1, B, H]``."""
    (d, name), (w, r) = direction, weights
    hidden, dtype = r.shape[1], w.initializer.dtype or ir.DataType.FLOAT
    suffix = "" if name == "forward" else f"/{name}"
    writer = Writer(site, name, dtype)
    order = (0, 1, 2) if batch_first else (1, 0, 2)
    dense = Dense(input_perm=order, kept=2, output_dims=(w.shape[0],), output_perm=(1, 0, 2))
    layer = f"{node.name}.{{}}{suffix.replace('/', '.')}"
    xw = site.vmm(x, w, w.view([], [1], [0]), dense, suffix=f"W{suffix}", layer=layer.format("W"))
    batch = x.shape[0 if batch_first else 1] if x.shape is not None else None
    r_dense, r_view, number = (
        Dense(**dense.model_dump(exclude={"input_perm"}), input_perm=(1, 0, 2)),
        r.view([], [1], [0]),
        count(),
    )

    def recur(h: ir.Value) -> ir.Value:
        h.shape = ir.Shape([1, batch, hidden])
        return site.vmm(h, r, r_view, r_dense, suffix=f"R{suffix}/{next(number)}", layer=layer.format("R"))

    reset_after = bool(node.attributes.get_int("linear_before_reset", 0))
    recur_bias = None
    if (bias := _slice(writer, node, 3, d)) is not None:
        w_bias, r_bias = writer.split(bias, [w.shape[0]] * 2, 0)
        if node.op_type == "GRU" and reset_after:
            recur_bias = r_bias
        else:
            w_bias = writer.one("Add", w_bias, r_bias)
        xw = writer.one("Add", xw, w_bias)
    peephole = _slice(writer, node, 7, d) if node.op_type == "LSTM" else None
    cell = Cell(
        writer,
        hidden,
        functions,
        recur,
        clip=node.attributes.get_float("clip", 0.0),
        recur_bias=recur_bias,
        peephole=writer.split(peephole, [hidden] * 3, 0) if peephole is not None else (),
        input_forget=bool(node.attributes.get_int("input_forget", 0)),
        linear_before_reset=reset_after,
    )
    h, c = (_initial(writer, node, slot, d, batch_first) for slot in (5, 6))
    outputs: list[ir.Value] = []
    inputs = writer.split(xw, [1] * steps, 0)
    for x_t in reversed(inputs) if name == "reverse" else inputs:
        if node.op_type == "LSTM":
            h, c = cell.lstm(x_t, h, c)
        else:
            h = cell.gru(x_t, h) if node.op_type == "GRU" else cell.rnn(x_t, h)
        outputs.append(h)
    if name == "reverse":
        outputs.reverse()
    if h is None:
        raise StaysDigital("its sequence is empty")
    return (lambda out: out.unsqueeze(_join(out, outputs, 0), 1)), h, c


def _steps(node: ir.Node, site: Site, x: ir.Value, batch_first: bool) -> int:
    """The static length of the sequence."""
    if site.opset < 7:
        raise StaysDigital(f"unrolling needs Add that broadcasts, from opset 7; the model has {site.opset}")
    dims = site.dims(x)
    steps, most = dims[1 if batch_first else 0], site.target.mapping.max_unroll
    if steps is None:
        raise SizeUnknown(f"the length of its sequence is not known before it runs{site.remedy(x)}")
    if steps == 0:
        raise StaysDigital("its sequence is empty")
    if steps > most:
        raise StaysDigital(
            f"{steps} steps are more than mapping.max_unroll={most}; --set mapping.max_unroll={steps} unrolls them"
        )
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    if lengths is not None:
        constant = integers(lengths)
        if constant is None:
            raise StaysDigital(f"its lengths '{lengths.name}' are known only at run time")
        if set(constant) - {steps}:
            raise StaysDigital("its sequences are not all of full length")
    return steps


def _functions(node: ir.Node, site: Site, directions: int) -> list[list[Activation]]:
    names = list(node.attributes.get_strings("activations") or _DEFAULTS[node.op_type] * directions)
    alphas = node.attributes.get_floats("activation_alpha") or ()
    betas = node.attributes.get_floats("activation_beta") or ()
    each = len(_DEFAULTS[node.op_type])
    if len(names) != each * directions:
        raise StaysDigital(f"it names {len(names)} activations, not {each * directions}")
    made = activations(names, alphas, betas, site.opset)
    return [made[each * d : each * (d + 1)] for d in range(directions)]


def _direction_of(weight: Operand, d: int) -> Operand:
    constant = weight.initializer.const_value
    # An axis of size 1 that came from Unsqueeze is none of the initializer's, to index it by.
    untouched = constant is not None and tuple(constant.shape.numpy()) == weight.shape
    if untouched and weight == Operand.of(weight.initializer, weight.shape):
        return weight.at(d)
    rest = weight.reshape(weight.shape[1:]) if weight.shape[0] == 1 else None
    if rest is None:
        raise StaysDigital(f"its weight '{weight.initializer.name}' is rearranged beyond a view")
    return rest


def _slice(writer: Writer, node: ir.Node, slot: int, d: int) -> ir.Value | None:
    """Entry d of a parameter; a digital node, so that the parameter keeps its name."""
    value = node.inputs[slot] if len(node.inputs) > slot else None
    if value is None:
        return None
    return writer.one("Gather", value, writer.scalar_int(d), axis=0)


def _initial(writer: Writer, node: ir.Node, slot: int, d: int, batch_first: bool) -> ir.Value | None:
    value = node.inputs[slot] if len(node.inputs) > slot else None
    if value is None or _zeros(value):
        return None
    if batch_first:
        value = writer.one("Transpose", value, perm=[1, 0, 2])
    return writer.one("Gather", value, writer.ints(d), axis=0)


def _zeros(value: ir.Value) -> bool:
    """Whether a value is made of nothing but zeros, as exporters write a state that nobody gave: no product needs them.

    An initializer of the state's shape is the user's, though it be zero: it may train.
    """
    node = value.producer()
    while node is not None and node.op_type in ("Slice", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze"):
        value = node.inputs[0] or value
        node = value.producer()
    if node is None or node.op_type not in ("ConstantOfShape", "Expand"):
        return False
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get_tensor("value", None)
        return fill is None or not fill.numpy().any()
    scalar = ir.convenience.get_const_tensor(node.inputs[0]) if node.inputs[0] is not None else None
    return scalar is not None and not scalar.shape.dims and not scalar.numpy().any()


def _join(writer: Writer, values: Sequence[ir.Value], axis: int) -> ir.Value:
    return values[0] if len(values) == 1 else writer.one("Concat", *values, axis=axis)
