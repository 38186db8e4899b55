"""`cimc warmup`, and a command that is stopped before it has begun."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import cimc
from tests.cli.test_signals import default_signals

PACKAGE = Path(cimc.__file__).parent


#: Runs the command, then names the kernels that it has not called. A process of its own: other tests call kernels too.
SCRIPT = """
import json, sys
from importlib import import_module
from pathlib import Path
import cimc
from cimc.cli.app import app
from cimc.runtime import jit
app(["warmup", "--json"], standalone_mode=False)
found = {}
folder = Path(cimc.__file__).parent
for path in folder.rglob("*.py"):
    if "@kernel(" in path.read_text() and path.name != "jit.py":
        module = ".".join(("cimc", *path.relative_to(folder).with_suffix("").parts))
        for name, value in vars(import_module(module)).items():
            if isinstance(getattr(value, "_cache", None), jit.KernelCache) and value.__module__ == module:
                found[value] = f"{module}.{name}"
# What a kernel calls is part of its compiled code.
todo, called = [kernel for kernel in found if kernel.overloads], set()
while todo:
    kernel = todo.pop()
    if kernel in found and kernel not in called:
        called.add(kernel)
    elif kernel in called:
        continue
    known = kernel.py_func.__globals__
    names = kernel.py_func.__code__.co_names
    inner = [known.get(name) for name in names]
    inner += [vars(value).get(name) for value in inner if type(value) is type(json) for name in names]
    todo += [value for value in inner if hasattr(value, "py_func") and value not in called]
print(json.dumps({name: kernel in called for kernel, name in found.items()}), file=sys.stderr)
"""


def test_warmup_calls_every_kernel_but_those_of_plugins_and_says_how_far_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    *lines, called = done.stderr.splitlines()
    kernels = json.loads(called)
    assert len(kernels) > 50
    left = {name for name, was in kernels.items() if not was}
    plugins = ("rng._fill_normals", "rng._fill_uniforms")
    assert left == {f"cimc.runtime.{name}" for name in plugins}
    assert set(json.loads(done.stdout)) == {"compiled", "seconds"}
    assert lines[0].startswith(f"1 of {len(lines)}, inference on ideal: ")
    chips = [path.stem for path in (PACKAGE / "targets" / "chips").glob("*.yaml")]
    assert all(any(f"inference on {chip}: " in line for line in lines) for chip in chips)


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(50)\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}"}
    command = [sys.executable, "-m", "cimc", "--version"]
    with subprocess.Popen(
        command, env=environment, stdout=-1, stderr=-1, text=True, cwd=tmp_path, preexec_fn=default_signals
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert err == "interrupted\n"
