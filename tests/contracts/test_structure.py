"""The house stays easy to walk: bounds on modules, functions and rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[2] / "yoi_daemon"
MAX_MODULE_LINES = 400
MAX_MEDIAN_LINES = 130
MAX_FUNCTION_LINES = 60
MAX_ENTRIES = {"plugins": 16}
"""The most files and folders at the top of a room that invites more of them."""
VAGUE = {"base", "common", "helpers", "misc", "shared", "utils"}
"""Names that say nothing of what is inside."""


def modules(root: Path) -> dict[Path, int]:
    """The lines of each module that has any; empty `__init__` files are no modules."""
    lines = {path: len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    return {path: count for path, count in lines.items() if count}


def long_modules(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): count
        for path, count in modules(root).items()
        if count > MAX_MODULE_LINES
    }


def functions(root: Path) -> Iterator[tuple[str, int]]:
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                yield f"{path.relative_to(root)}:{node.name}", length


def long_functions(root: Path) -> dict[str, int]:
    return {name: length for name, length in functions(root) if length > MAX_FUNCTION_LINES}


def full_rooms(root: Path) -> dict[str, int]:
    counts = {
        room: sum(
            entry.name not in ("__init__.py", "__pycache__") for entry in (root / room).iterdir()
        )
        for room in MAX_ENTRIES
    }
    return {room: count for room, count in counts.items() if count > MAX_ENTRIES[room]}


def filled_inits(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in modules(root) if path.name == "__init__.py"}


def vague_names(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.stem in VAGUE and "__pycache__" not in path.parts
    }


def test_no_module_is_longer_than_its_bound():
    assert long_modules(PACKAGE) == {}


def test_the_median_module_is_short():
    assert median(modules(PACKAGE).values()) <= MAX_MEDIAN_LINES


def test_no_function_is_longer_than_its_bound():
    assert long_functions(PACKAGE) == {}


def test_no_room_has_more_entries_than_its_bound():
    assert full_rooms(PACKAGE) == {}


def test_only_the_sdk_reexports():
    assert filled_inits(PACKAGE) == {"sdk/__init__.py"}


def test_every_name_says_what_is_inside():
    assert vague_names(PACKAGE) == set()


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    """A package that breaks every rule."""
    body = "\n".join(f"    x = {n}" for n in range(MAX_FUNCTION_LINES))
    (tmp_path / "long.py").write_text("x = 1\n" * (MAX_MODULE_LINES + 1))
    (tmp_path / "utils.py").write_text(f"async def run():\n{body}\n")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "__init__.py").write_text("from long import x\n")
    for number in range(MAX_ENTRIES["plugins"] + 1):
        (tmp_path / "plugins" / f"part{number}.py").write_text("")
    return tmp_path


def test_the_negative_control_breaks_every_rule(untidy: Path):
    assert long_modules(untidy) == {"long.py": MAX_MODULE_LINES + 1}
    assert long_functions(untidy) == {"utils.py:run": MAX_FUNCTION_LINES + 1}
    assert full_rooms(untidy) == {"plugins": MAX_ENTRIES["plugins"] + 1}
    assert filled_inits(untidy) == {"plugins/__init__.py"}
    assert vague_names(untidy) == {"utils.py"}
