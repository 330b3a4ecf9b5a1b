"""A block of `together` is synchronous in all of the program, so the group commit never cuts one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import yoi_daemon

PACKAGE = Path(yoi_daemon.__file__).parent
YIELDS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def yields_in(node: ast.AST) -> Iterator[int]:
    """The lines where the task may yield while `node` is executed."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINES):
            continue  # it is only defined here
        if isinstance(child, YIELDS):
            yield child.lineno
        if isinstance(child, ast.comprehension) and child.is_async:
            yield child.target.lineno
        yield from yields_in(child)


def blocks_of(source: str) -> list[ast.With]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.With)
        and any(
            isinstance(item.context_expr, ast.Call)
            and isinstance(item.context_expr.func, ast.Attribute)
            and item.context_expr.func.attr == "together"
            for item in node.items
        )
    ]


def yields_in_blocks(source: str) -> list[int]:
    return [line for block in blocks_of(source) for line in yields_in(block)]


def test_no_task_yields_in_a_block():
    sources = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    found = [
        f"{path}:{line}" for path, source in sources.items() for line in yields_in_blocks(source)
    ]
    assert not found
    assert sum(len(blocks_of(source)) for source in sources.values()) >= 8, "they were not found"


@pytest.mark.parametrize(
    "line",
    [
        "await log.committed(1)",
        "async with lock: pass",
        "async for item in items: pass",
        "x = [y async for y in items]",
        "yield",
    ],
)
def test_the_negative_control_a_yield_is_found(line):
    source = f"async def f():\n    with self._log.together() as commit:\n        {line}\n"
    assert yields_in_blocks(source)
    calm = source.replace(line, "async def later(): await log.committed(1)")
    assert not yields_in_blocks(calm)
