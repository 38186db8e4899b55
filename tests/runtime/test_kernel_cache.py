"""Compiled kernels are kept: never stale, never needed, never a reason to fail.

Child processes run a package of two tiny kernels, one of which calls the other.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cimc.runtime import jit, kernel_files

LOW = "from cimc.runtime.jit import kernel\n\n@kernel()\ndef scaled(x):\n    return {} * x\n"
HIGH = (
    "from cimc.runtime.jit import kernel\nfrom cimc.runtime.low import scaled\n\n@kernel()\ndef shifted(x):\n"
    "    return scaled(x) + 1\n\nprint(shifted(10))\n"
)
#: Python itself may lie where that user cannot read: all that compiling imports is loaded before.
AS_OTHER_USER = """
import os, tempfile, numba
numba.njit(lambda x: 2 * x + 1)(1)
import cimc.runtime.jit
tempfile.tempdir = os.getcwd()
os.setuid(65534)
import cimc.runtime.high
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that all users may enter, with a package ``cimc``; ``cimc.runtime.high`` prints 21."""
    base = tmp_path / "base"
    runtime = base / "cimc" / "runtime"
    runtime.mkdir(parents=True)
    for module in (jit, kernel_files):
        shutil.copy(module.__file__, runtime)
    (base / "cimc" / "__init__.py").touch()
    (runtime / "__init__.py").touch()
    (runtime / "low.py").write_text(LOW.format(2))
    (runtime / "high.py").write_text(HIGH)
    for folder in (base, *base.parents):
        if not folder.stat().st_mode & 0o001:  # pytest's own folders are for one user, at a depth that pytest-xdist changes
            folder.chmod(folder.stat().st_mode | 0o055)
    return base


def run(package: Path, *, other_user: bool = False, **changes: str | None) -> tuple[str, str]:
    """What ``cimc.runtime.high`` writes to standard output and standard error, with these changes to the environment."""
    dropped = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"PYTHONPATH": str(package), "HOME": str(package / "home"), "TMPDIR": str(package)}
    for key, value in changes.items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    command = [sys.executable, "-c", AS_OTHER_USER if other_user else "import cimc.runtime.high"]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("cimc-kernels-*/*") if path.is_file())


def test_first_use_says_so_and_the_second_says_nothing(package: Path) -> None:
    out, err = run(package)
    assert out == "21\n"
    assert err.splitlines() == ["cimc: compiling kernels; this takes about a minute, once (cimc warmup does it beforehand)"]
    assert len(kept(package / "cimc" / "__pycache__")) == 2
    assert run(package) == ("21\n", "")


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit in the middle of the compiled code."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def garbage(data: bytes) -> bytes:
    return b"\x80\x05garbage" * 40


def test_damaged_files_are_compiled_again_and_mended(package: Path) -> None:
    run(package)
    files = kept(package / "cimc" / "__pycache__")
    assert len(files) == 2
    sound = [path.read_bytes() for path in files]
    for damages in ((truncated, flipped), (garbage, empty)):
        for path, data, damage in zip(files, sound, damages, strict=True):
            path.write_bytes(damage(data))
        out, err = run(package)
        assert out == "21\n"
        assert "compiling" in err
        for path in files:
            content, checksum = path.read_bytes()[:-32], path.read_bytes()[-32:]
            assert hashlib.sha256(content).digest() == checksum
    assert run(package) == ("21\n", "")


def test_an_edit_of_a_module_compiles_what_calls_it(package: Path) -> None:
    assert run(package)[0] == "21\n"
    old = kept(package / "cimc" / "__pycache__")[0].parent
    os.utime(old, (0, 0))
    (package / "cimc" / "runtime" / "low.py").write_text(LOW.format(3))
    os.utime(package / "cimc" / "runtime" / "low.py", (1e9, 1e9))  # of a size as before; Python itself sees the time
    assert run(package)[0] == "31\n"
    assert not old.exists()  # nobody has used it for a day


def test_an_edit_while_a_process_runs_is_not_mixed_with_the_old_code(package: Path) -> None:
    low = package / "cimc" / "runtime" / "low.py"
    (package / "cimc" / "runtime" / "first.py").write_text(LOW.format(1))
    edit = f"open({str(low)!r}, 'w').write({LOW.format(30)!r})"
    (package / "late.py").write_text(f"import cimc.runtime.first\n{edit}\nimport cimc.runtime.high\n")
    environment = {**os.environ, "PYTHONPATH": str(package), "HOME": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "late.py"], cwd=package, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "301\n"
    low.write_text(LOW.format(2))
    os.utime(low, (1e9, 1e9))
    assert run(package)[0] == "21\n"


def test_other_numba_settings_have_other_files(package: Path) -> None:
    run(package)
    assert "compiling" in run(package, NUMBA_BOUNDSCHECK="1")[1]
    assert run(package) == ("21\n", "")


def test_a_folder_of_ones_own(package: Path) -> None:
    run(package, NUMBA_CACHE_DIR=str(package / "mine"))
    assert len(kept(package / "mine")) == 2
    assert not kept(package / "cimc" / "__pycache__")


def test_where_a_file_blocks_the_folders_the_next_one_serves(package: Path) -> None:
    (package / "cimc" / "__pycache__").touch()
    run(package, PYTHONDONTWRITEBYTECODE="1")
    assert len(kept(package / "home" / ".cache" / "cimc")) == 2
    shutil.rmtree(package / "home")
    (package / "home").touch()
    run(package, PYTHONDONTWRITEBYTECODE="1")
    (private,) = package.glob("cimc-[0-9]*")
    assert len(kept(private)) == 2
    assert private.stat().st_mode & 0o777 == 0o700
    assert run(package) == ("21\n", "")


def test_what_others_may_write_in_the_temporary_folder_is_not_executed(package: Path) -> None:
    (package / "cimc" / "__pycache__").touch()
    (package / "home").touch()
    run(package, PYTHONDONTWRITEBYTECODE="1")
    (private,) = package.glob("cimc-[0-9]*")
    private.chmod(0o777)
    out, err = run(package, PYTHONDONTWRITEBYTECODE="1")
    assert out == "21\n"
    assert err.count("\n") == 2
    assert "NUMBA_CACHE_DIR" in err


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs a second user")
def test_a_read_only_package_without_a_home(package: Path) -> None:
    """Of another user, without a folder to write to: compiled each time; from what root has kept: nothing is compiled."""
    out, err = run(package, other_user=True, HOME=None)
    assert out == "21\n"
    assert "no folder takes the compiled kernels" in err
    run(package)
    assert run(package, other_user=True, HOME=None) == ("21\n", "")


def test_a_full_disk_leaves_no_part_of_a_file(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = kernel_files._Folders()
    folders.paths, folders.private = [tmp_path / "cimc-kernels-x"], None
    monkeypatch.setattr(kernel_files, "_folders", lambda: folders)

    def full(source: object, goal: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not kernel_files.write("k", b"code")
    assert not list((tmp_path / "cimc-kernels-x").iterdir())


def free_names(function: ast.FunctionDef) -> set[str]:
    """Names that a function reads and does not set."""
    names = [node for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {argument.arg for argument in function.args.args}
    return {node.id for node in names} - own


def test_the_digest_covers_all_that_kernels_take_from_other_modules() -> None:
    """Each name of cimc that a kernel's module imports and a compiled function uses comes from a module in the digest."""
    root = Path(kernel_files.__file__).parents[2]
    covered = set(kernel_files.sources())
    seen = 0
    for path in sorted(Path(root, "cimc").rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        compiled = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and any(ast.unparse(d).split("(")[0] in ("kernel", "njit", "intrinsic", "overload") for d in node.decorator_list)
        ]
        if not compiled:
            continue
        seen += len(compiled)
        assert path in covered
        used = set().union(*(free_names(function) for function in compiled))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cimc"):
                for alias in node.names:
                    if (alias.asname or alias.name) in used:
                        module = Path(root, *node.module.split("."))
                        inside = module / f"{alias.name}.py"
                        source = inside if inside.exists() else module.with_suffix(".py")
                        assert source in covered, f"{path.name} takes {alias.name} from {source}"
    assert seen > 60
