"""The number of threads: what bounds it, and that no result depends on it; work on threads of Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from threadpoolctl import threadpool_info, threadpool_limits

import cimc
import cimc.threads
from cimc.errors import CimcError
from cimc.ir.onnx_io import session
from cimc.passes import calibrate
from cimc.threads import parallel, set_threads, threads
from tests.runtime.forked import found_in_child

PACKAGE = Path(cimc.__file__).parent
RANDOM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_threads(None)
    cimc.threads._default.cache_clear()


def matmul(*sizes: int) -> onnx.ModelProto:
    """y = a @ b."""
    rows, terms, columns = sizes
    shapes = {"a": [rows, terms], "b": [terms, columns]}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [rows, columns])]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"], "product")], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def real(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def test_the_variable_bounds_kernels_sessions_and_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    with threadpool_limits(2, user_api="blas"):
        monkeypatch.setenv("CIMC_THREADS", "1")
        cimc.threads._default.cache_clear()
        assert threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
        made = session(matmul(4, 4, 4).SerializeToString(), {})
        assert made.get_session_options().intra_op_num_threads == 1
        assert made.get_session_options().inter_op_num_threads == 1


def test_blas_is_bounded_where_the_number_was_set_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    with threadpool_limits(2, user_api="blas"):
        monkeypatch.setenv("CIMC_THREADS", "1")
        cimc.threads._default.cache_clear()
        set_threads(2)
        assert threads() == 2
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


def test_sessions_are_made_in_one_place() -> None:
    assert [path.name for path in PACKAGE.rglob("*.py") if "InferenceSession(" in path.read_text()] == ["onnx_io.py"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads under /proc")
@pytest.mark.parametrize("number", [1, 3])
def test_a_session_starts_no_more_threads(number: int) -> None:
    set_threads(number)
    before = len(list(Path("/proc/self/task").iterdir()))
    made = session(matmul(64, 64, 64).SerializeToString(), {})
    made.run(None, {"a": real(64, 64), "b": real(64, 64)})
    assert len(list(Path("/proc/self/task").iterdir())) - before == number - 1


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "99999", "4097", "04096999", "²"])
def test_a_bad_number_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIMC_THREADS", value)
    cimc.threads._default.cache_clear()
    with pytest.raises(CimcError, match=f"CIMC_THREADS is '{value}', not a number of threads"):
        threads()


@pytest.mark.parametrize("sizes", [(64, 1000, 100), (16, 2000, 64), (64, 128, 100)])
def test_digital_products_give_the_same_bytes_on_any_number_of_threads(sizes: tuple[int, int, int]) -> None:
    """ONNX Runtime itself adds up the first two in another order on each number of threads."""
    rows, terms, columns = sizes
    program = cimc.compile(matmul(*sizes), target="ideal")
    feeds = {"a": real(rows, terms), "b": real(terms, columns)}
    found = set()
    for number in (1, 2, 3, 5):
        set_threads(number)
        found.add(cimc.Chip(program, 0).run(feeds)["y"].tobytes())
    assert len(found) == 1


def test_calibration_gives_the_same_bytes_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_RUN_BYTES", 16 * 4 * 1600)
    weights = {"v": real(1000, 100), "w": real(100, 500), "u": real(500, 10)}
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 1000] x) => (float[N, 10] y) {{ {} }}'
    model = onnx.parser.parse_model(
        text.format("h = MatMul (x, v)  r = Sin (h)  k = MatMul (r, w)  s = Tanh (k)  y = MatMul (s, u)")
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    x = real(60, 1000)
    found = []
    for number in (1, 3):
        set_threads(number)
        found.append(cimc.compile(model, target="isaac", calibration={"x": x}))
    one, other = found
    assert one.model_dump_json() == other.model_dump_json()
    assert {name: array.tobytes() for name, array in one.tensors.items()} == {n: a.tobytes() for n, a in other.tensors.items()}


def test_each_task_is_done_once_and_results_stand_in_their_order() -> None:
    done: list[int] = []

    def work(task: int) -> int:
        time.sleep(0.001 * (task % 3))
        done.append(task)
        return task * task

    assert parallel(work, 20, 4) == [n * n for n in range(20)]
    assert sorted(done) == list(range(20))


def test_another_thread_takes_part() -> None:
    # Both wait for each other: one thread alone would never pass.
    meeting = threading.Barrier(2)
    assert sorted(parallel(lambda _: meeting.wait(timeout=30), 2, 2)) == [0, 1]


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_comes_out_after_no_task_runs_any_more(number: int) -> None:
    running: list[int] = []

    def work(task: int) -> None:
        running.append(task)
        time.sleep(0.005)
        running.remove(task)
        if task == 1:
            raise ValueError("task 1")

    with pytest.raises(ValueError, match="task 1"):
        parallel(work, 6, number)
    assert running == []


def test_work_may_ask_for_work() -> None:
    def outer(task: int) -> int:
        return sum(parallel(lambda inner: 10 * task + inner, 3, 3))

    assert parallel(outer, 4, 2) == [3 + 30 * task for task in range(4)]


def test_a_forked_process_has_threads_of_its_own() -> None:
    parallel(lambda task: task, 4, 2)
    assert found_in_child(lambda: sum(parallel(lambda task: task, 10, 2))) == 45
