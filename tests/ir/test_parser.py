"""The text of a program reads back to the same program, and errors of a text name line and column."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cimc
from cimc.errors import ArtifactError
from cimc.ir.geometry import Dense, WeightView
from cimc.ir.parser import parse_program
from cimc.ir.printer import print_program
from cimc.ir.program import (
    DigitalStep,
    InputCoding,
    Layer,
    MaskStep,
    Placement,
    Program,
    RandomStep,
    Step,
    UpdateStep,
    ValueSpec,
    VmmStep,
)
from cimc.ir.tensor_ref import TensorRef
from cimc.ir.text_form import FORMS
from cimc.ir.verify import verify
from cimc.targets.description import Target
from cimc.training.step import training_program
from tests.cli.conftest import cimc as command
from tests.ir.crossbar_programs import BULK, LENET, Matrix, chain, copy_counts, matrices, targets, through

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SMALL = """program schema=1 {
  target tiny {array={"rows": 2, "columns": 4}}
  input %x: float32["N", 3]
  output %y: float32["N", 2]
  layer @fc {weight={"tensor": "w", "split": [2, 3], "perm": [1, 0], "shape": [1, 3, 2]} row_cuts=[0, 2, 3] column_cuts=[0, 2]}
    block 0.0.0: 2 x 4 at 0.0[0, 0]
    block 0.1.0: 1 x 4 at 0.1[0, 0]
  %y = vmm @fc(%x) {name="fc" geometry=GEOMETRY nodes=["fc"]}
  tensor initializer/w: float32[2, 3] = [[0.1, 2.0, -3.5], [1e-07, 0.0, 4.0]]
}
""".replace("GEOMETRY", '{"kind": "dense", "input_perm": [0, 1], "kept": 1, "output_dims": [2], "output_perm": [0, 1]}')


def assert_same(one: Program, other: Program) -> None:
    """Equal to the bytes of every tensor."""
    assert one.model_dump_json() == other.model_dump_json()
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        twin = other.tensors[name]
        assert (tensor.dtype, tensor.shape, tensor.tobytes()) == (twin.dtype, twin.shape, twin.tobytes()), name


def assert_reads_back(program: Program) -> None:
    text = print_program(program)
    assert print_program(parse_program(text)) == text
    assert_same(parse_program(text, program.tensors), program)


def test_a_whole_program_in_a_text() -> None:
    program = parse_program(SMALL)
    verify(program)
    assert print_program(program) == SMALL
    assert program.layer("fc").row_cuts == (0, 2, 3)
    np.testing.assert_array_equal(program.tensors["initializer/w"], np.array([[0.1, 2, -3.5], [1e-7, 0, 4]], np.float32))
    assert program.tensors["blocks/fc"].tolist() == [[0, 0, 0, 0, 0, 0, 0, 2, 4], [0, 1, 0, 0, 1, 0, 0, 1, 4]]


def test_every_kind_of_step_has_a_form() -> None:
    kinds = {get_args(record.model_fields["kind"].annotation)[0] for record in get_args(get_args(Step)[0])}
    assert kinds == FORMS.keys()


def test_comments_and_layout_are_free() -> None:
    loose = SMALL.replace("{", "{ # a comment\n", 1).replace(", ", "  ,\n").replace("  tensor", "\ttensor")
    assert print_program(parse_program(loose)) == SMALL


@pytest.mark.parametrize("target", ["ideal", "bulk-rram", "isaac", "hermes-pcm", "neurram", "cmo-hfox"])
def test_lenet_and_its_training_step_read_back(target: str) -> None:
    program = cimc.compile("examples/lenet_mnist/lenet.onnx", target)
    assert_reads_back(program)
    assert_reads_back(training_program(program))


@pytest.mark.slow
def test_a_light_model_reads_back() -> None:
    """ShuffleNet: its convolutions have groups."""
    settings = {"weights.window": "largest", "weights.scale": "layer"}
    assert_reads_back(cimc.compile(LIGHT / "light_shufflenet.onnx", "bulk-rram-256", settings=settings))


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_placed_programs_read_back(target: Target, layers: tuple[Matrix, ...], data: st.DataObject) -> None:
    assert_reads_back(chain(target, layers))
    assert_reads_back(through(chain(target, layers), copies=data.draw(copy_counts(layers))))


NAMES = st.text(min_size=1, max_size=8)
SIZES = st.integers(0, (1 << 31) - 1)
REALS = st.floats(allow_nan=False, allow_infinity=False)
#: One record of each kind that `SMALL` lacks, with any names and numbers; what they mean is not checked here.
STEPS = st.one_of(
    st.builds(
        DigitalStep, name=NAMES, inputs=st.lists(NAMES), outputs=st.lists(NAMES), nodes=st.lists(NAMES),
        splits_exactly=st.booleans(),
    ),
    st.builds(MaskStep, name=NAMES, input=NAMES, output=NAMES, ratio=st.floats(0.1, 0.9)),
    st.builds(
        RandomStep, name=NAMES, operator=st.sampled_from(["normal", "dropout"]), input=st.none() | NAMES, dtype=NAMES,
        outputs=st.lists(NAMES, min_size=1, max_size=2), shape=st.none() | st.lists(SIZES, max_size=3), offset=REALS,
    ),
    st.builds(UpdateStep, name=NAMES, parameter=NAMES, layer=st.none() | NAMES, inputs=st.lists(NAMES)),
    st.builds(
        VmmStep, name=NAMES, layer=NAMES, input=NAMES, output=NAMES, positions=st.none() | SIZES, nodes=st.lists(NAMES),
        geometry=st.builds(
            Dense, input_perm=st.lists(SIZES), kept=SIZES, output_dims=st.lists(SIZES), output_perm=st.lists(SIZES)
        ),
    ),
)  # fmt: skip
LAYERS = st.builds(
    Layer,
    name=NAMES,
    weight=st.builds(WeightView, tensor=NAMES, split=st.lists(SIZES), perm=st.lists(SIZES), shape=st.tuples(SIZES, SIZES, SIZES)),
    coding=st.builds(InputCoding, gain=st.floats(1e-30, 1e30), signed=st.booleans(), basis=NAMES),
)
DTYPES = st.sampled_from([np.dtype(kind) for kind in ("?", "i1", "u2", "i8", "u8", "f2", "f4", "f8", ml_dtypes.bfloat16)])


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[np.generic]:
    """Any bytes as an array of any type, NaN and infinities too."""
    dtype, shape = draw(DTYPES), tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    return np.frombuffer(bytes(b & 1 for b in raw) if dtype.kind == "b" else raw, dtype).reshape(shape)


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(STEPS, max_size=3),
    layers=st.lists(LAYERS, max_size=2, unique_by=lambda layer: layer.name),
    shape=st.none() | st.lists(st.none() | SIZES | NAMES, max_size=3),
    dtype=st.sampled_from(["", "string", "float32"]),
    words=st.lists(NAMES, max_size=2),
    tensors=st.dictionaries(NAMES, arrays(), max_size=3),
)
def test_any_records_read_back(steps, layers, shape, dtype, words, tensors) -> None:  # type: ignore[no-untyped-def]
    value = ValueSpec(name="x", dtype=dtype, shape=shape, has_default=True, range=(-0.1, 1e300))
    row = Placement(name="a b", op_type="Conv", where="digital", why="\n".join(words))
    assert_reads_back(
        Program(
            target=BULK, inputs=(value,), outputs=(value,), steps=tuple(steps), layers=tuple(layers), bound=tuple(words),
            parameters=tuple(words), loss=next(iter(words), None), placements=(row,), tensors=tensors,
        )
    )  # fmt: skip


def test_a_tensor_without_its_data_is_a_reference_that_computes_nothing() -> None:
    text = print_program(chain(BULK, LENET))
    tensor = parse_program(text).tensors["initializer/dense.weight"]
    assert isinstance(tensor, TensorRef)
    assert (tensor.dtype, tensor.shape, tensor.size) == (np.float32, (1, 10, 192), 1920)
    with pytest.raises(TypeError):
        tensor + 1  # type: ignore[operator]


def test_another_array_than_the_text_names_is_refused() -> None:
    program = chain(BULK, LENET)
    name = "initializer/dense.weight"
    for wrong, said in ((program.tensors[name] + 1, "another hash"), (program.tensors[name][0], r"is float32\[10, 192\]")):
        with pytest.raises(ArtifactError, match=said):
            parse_program(print_program(program), {**program.tensors, name: wrong})


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("program schema=1", "program schema=9", "line 1, column 16", "this cimc reads 1"),
        ("program", "prog", "line 1, column 1", "'program' is expected"),
        ("input %x", "inputs %x", "line 3, column 3", "there is no item inputs"),
        ("input %x", "input x", "line 3, column 9", "'%' is expected here, not 'x: float32"),
        ('["N", 3]', '["N", 3', "line 4, column 3", "']' is expected here, not 'output"),
        ("row_cuts=[0, 2, 3]", "row_cuts=[0, -2, 3]", "line 5, column 3", "row_cuts.1: Input should be greater"),
        ("row_cuts", "rowcuts", "line 5, column 3", "rowcuts: Extra inputs are not permitted"),
        ("2 x 4 at", "2 by 4 at", "line 6, column 20", "'x' is expected"),
        ("vmm @fc", "vmul @fc", "line 8, column 8", "there is no kind of step vmul"),
        ("(%x)", "(%x, %y)", "line 8, column 16", "2 values, vmm reads 1"),
        ("-3.5]", "-3.5", "line 10, column 1", "no JSON value"),
        ("float32[2, 3] =", "float32[2, 2] =", "line 9, column 41", r"6 numbers do not fill \[2, 2\]"),
        ("float32[2, 3] =", "object[2, 3] =", "line 9, column 25", "tensors are no object"),
        ("}\n", "} more\n", "line 10, column 3", "behind the program's end"),
        ('target tiny {array={"rows": 2, "columns": 4}}', "", "line 1, column 1", "no target"),
        ('"rows": 2', '"rows": 0', "line 2, column 3", "array.rows"),
    ],
)  # fmt: skip
def test_errors_name_line_and_column(old: str, new: str, place: str, said: str) -> None:
    at = SMALL.rindex(old) if old == "}\n" else SMALL.index(old)
    with pytest.raises(ArtifactError, match=said) as caught:
        parse_program(SMALL[:at] + new + SMALL[at + len(old) :])
    assert caught.value.where == place


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, len(SMALL) - 1), length=st.integers(0, 12), new=st.text('{}[]()"%@=:,.#?0x9ab \n', max_size=3))
def test_a_damaged_text_is_refused_or_another_program(at: int, length: int, new: str) -> None:
    """No damage ends in another error than `ArtifactError`."""
    with suppress(ArtifactError):
        parse_program(SMALL[:at] + new + SMALL[at + length :])


def test_inspect_takes_the_text_that_compile_emits(tmp_path: Path) -> None:
    path = tmp_path / "lenet.txt"
    assert command("compile", "examples/lenet_mnist/lenet.onnx", "--emit", "text", "-o", path).code == 0
    assert command("compile", "examples/lenet_mnist/lenet.onnx", "-o", tmp_path / "lenet.cim").code == 0
    of_text, of_file = (command("inspect", tmp_path / name, "--nodes").out for name in ("lenet.txt", "lenet.cim"))
    assert of_text.replace("lenet.txt", "lenet.cim") == of_file
    refused = command("run", path, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert refused.code == 2
    assert "cimc inspect takes it" in refused.err


def test_a_text_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(SMALL.replace("0.1[0, 0]", "0.1[63, 0]"))
    done = command("inspect", path)
    assert done.code == 2
    assert "leaves its tile" in done.err
