"""What makes a model unfit: rules of the ONNX standard, and what ONNX Runtime refuses. It has the last word."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import CimcError, ModelError
from cimc.frontend import normal
from cimc.ir import onnx_io

#: How onnx.checker and ONNX Runtime name the node that they complain about.
_NODE = re.compile(
    r"Name: (\S+) OpType:|node with name '([^']+)'|In Node, \(\"([^\"]+)\"|[Nn]ode:? ?\(([^)]+)\)"
    r"|node\. Name:'([^']+)'|, node name: (\S+?)[,:)]"
)
_RUNTIME_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


@contextmanager
def refusing(where: str, who: str, fix: str, model: ir.Model | None = None) -> Iterator[None]:
    """Turn what a library raises for a bad model into a ModelError that names the node.

    The message names it, or at least its operator, which is then looked for in ``model``.
    """
    try:
        yield
    except CimcError:
        raise
    except (Exception, RecursionError) as error:
        # protobuf, onnx, onnx_ir and ONNX Runtime share no base class, and a damaged model may upset any part of them.
        text = _RUNTIME_PREFIX.sub("", str(error).strip())
        node = next((name for match in _NODE.finditer(text) for name in match.groups() if name), None)
        if node is None and model is not None:
            node = next((n.name for n in model.graph.all_nodes() if f"{n.domain}:{n.op_type}(" in text), None)
        line = " ".join(re.sub(r"\s*==> Context:", ";", text).split())[:500] or type(error).__name__
        raise ModelError(f"{who}: {line}", where=f"{where}, node {node}" if node else where, fix=fix) from None


def shell(model: onnx.ModelProto, stripped: Collection[str]) -> onnx.ModelProto:
    """A copy in which initializers whose bytes are not in the model stand as inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [t for t in model.graph.initializer if t.name not in stripped]
    known = {value.name for value in model.graph.input}
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    for tensor in model.graph.initializer:
        if tensor.name in stripped and tensor.name not in known:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy


def complaint(model: onnx.ModelProto, where: str) -> ModelError | None:
    """What `onnx.checker` has against a model.

    The checker is stricter than ONNX Runtime: what it says counts only if the model does not run.
    """
    try:
        with refusing(where, "onnx.checker refuses it", "correct the model until onnx.checker.check_model accepts it"):
            onnx.checker.check_model(model)
    except ModelError as error:
        return error
    return None


def given(model: onnx.ModelProto, where: str) -> None:
    """Refuse nodes that leave out an input that is not optional: some kernels of ONNX Runtime do not look before they read.

    Raises:
        ModelError: It names the node.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    for node in normal.all_nodes(model):
        if "" in node.input and node.domain in ("", "ai.onnx"):
            optional = _optional(node.op_type, version)
            for k, name in enumerate(node.input):
                if not name and optional and not optional[min(k, len(optional) - 1)]:
                    what = f"its input {k} is left out, and it is not optional"
                    raise ModelError(what, where=f"{where}, node {node.name or node.op_type}", fix="export the model again")


def _optional(op_type: str, version: int) -> list[bool]:
    """Whether each input of a standard operator may be left out; empty where nothing is known of it."""
    try:
        inputs = onnx.defs.get_schema(op_type, version).inputs
    except Exception:  # there is no such operator, or version: ONNX Runtime says so
        return []
    return [value.option == onnx.defs.OpSchema.FormalParameterOption.Optional for value in inputs]


_NOT_RUN = "replace the operator, or export at an opset and element types that ONNX Runtime's CPU provider has"


def runnable(given: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]], where: str, model: ir.Model) -> None:
    """Have ONNX Runtime build a session of a model as it was given, without optimisation and without copying weights.

    Args:
        given: The model, which is changed; the bytes of ``arrays`` are not in it.
        arrays: Its large initializers by name.
        where: The file, for the message.
        model: The same model, in which the node that ONNX Runtime complains about is looked for.

    Raises:
        ModelError: ONNX Runtime's reason, in one line.
    """
    names: set[str] = set()
    for node in normal.all_nodes(given):
        if node.name in names:
            node.name = ""  # two of one name are no fault here: every node gets a name of its own
        names.add(node.name)
    for tensor in given.graph.initializer:
        if tensor.name not in arrays:
            continue
        if onnx_io.is_plain(ir.DataType(tensor.data_type)):
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=tensor.name)
        else:
            tensor.raw_data = arrays[tensor.name].tobytes()
    with refusing(where, "ONNX Runtime refuses it", _NOT_RUN, model):
        onnx_io.session(given.SerializeToString(), arrays)


def runnable_again(model: ir.Model, where: str) -> None:
    """The same of the model in its normal form; ONNX Runtime tells types of outputs that it does not state.

    Raises:
        ModelError: ONNX Runtime's reason, in one line.
    """
    with refusing(where, "it cannot be written again", "export it with another exporter or opset"):
        small, tensors = onnx_io.split(model)
    with refusing(where, "ONNX Runtime refuses it", _NOT_RUN, model):
        made = onnx_io.session(small, tensors)
    told = {output.name: onnx_io.told_type(output.type) for output in made.get_outputs()}
    for value in model.graph.outputs:
        if value.type is None:
            value.type = told.get(value.name)
