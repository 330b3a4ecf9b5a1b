"""Only `children` starts processes, by whatever name the standard library or Trio has for it."""

import ast
from pathlib import Path

import pytest

import yoi_daemon

PACKAGE = Path(yoi_daemon.__file__).parent
STARTS = {
    "fork", "forkpty", "popen", "posix_spawn", "posix_spawnp", "startfile", "system",
    "open_process", "run_process", "Popen", "ProcessPoolExecutor", "create_subprocess_exec", "create_subprocess_shell",
    *(f"exec{form}" for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(f"spawn{form}" for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
}  # fmt: skip
"""Functions and classes by which a process is started or replaced."""
MODULES = {"subprocess", "multiprocessing", "pty", "_posixsubprocess"}


def starts(source: str) -> set[str]:
    """The names in `source` that stand for starting a process."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(
                attr=name, value=ast.Name(id="os" | "trio" | "lowlevel" | "asyncio")
            ):
                found.add(name)
            case ast.Attribute(attr=name, value=ast.Attribute(attr="lowlevel")):
                found.add(name)
            case ast.Import(names=names):
                found.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                found.add(module.partition(".")[0])
                found.update(alias.name for alias in names)
            case _:
                pass
    return found & (STARTS | MODULES)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "from os import posix_spawn",
        "import multiprocessing.pool",
        "import trio\nasync def f(): await trio.run_process(['x'])",
        "import trio\nasync def f(): await trio.lowlevel.open_process(['x'])",
        "from subprocess import run",
        "from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_the_control_finds_each_way_to_start_a_process(source):
    assert starts(source)


def test_no_room_but_children_starts_a_process():
    found = {
        str(file.relative_to(PACKAGE)): names
        for file in PACKAGE.rglob("*.py")
        if (names := starts(file.read_text("utf-8")))
    }
    assert {Path(name).parts[0] for name in found} == {"children"}, found
