"""What may be in a plugin's directory, and never runs."""

import importlib
import importlib.util
import linecache
import os
import py_compile
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.plugins.loading.loader import LoadedPlugin, Loader
from yoi_daemon.plugins.loading.source import MAX_PACKAGE_FILES, LoadFailed
from yoi_daemon.trusted_files import MAX_FILE_BYTES, trust_for

GOOD = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("gen")
@plugin.tool("a")
async def tool(ctx, args: dict[str, int]) -> int: return 1
"""
RAN: list[str] = []
PLANTED = f"import {__name__}\n{__name__}.RAN.append(__file__)\n" + GOOD
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class Directory:
    """A plugin directory with one good plugin's place in it, `gen`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plugins = root / "config" / "plugins"
        self.plugins.mkdir(parents=True)
        self.file = self.plugins / "gen.py"
        directories = Directories(root / "config", root / "state", root / "secrets")
        self.loader = Loader(directories, trust_for(directories), Redaction())

    def load(self) -> LoadedPlugin:
        """As the daemon does: found by name, read, run."""
        return self.loader.load(self.loader.read(self.loader.discover().found["gen"]), {})

    def fails(self) -> LoadFailed:
        with pytest.raises(LoadFailed) as caught:
            self.load()
        assert str(self.root) not in caught.value.message
        return caught.value


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Iterator[Directory]:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Directory.__module__])
    RAN.clear()
    found = Directory(tmp_path)
    before = set(sys.modules)
    with found.loader.installed():
        yield found
    for name in set(sys.modules) - before:
        if name.startswith("yoi_plugin_"):
            del sys.modules[name]


def naive(file: Path) -> None:
    """What a host does that imports by path: the control."""
    spec = importlib.util.spec_from_file_location("naive_gen", file)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def plant_bytecode(file: Path) -> None:
    """A `.pyc` of other code beside an untouched source: its header has that source's time and size."""
    found = file.stat()
    other = file.with_name("planted.txt")
    other.write_text(PLANTED.ljust(found.st_size))
    assert other.stat().st_size >= found.st_size
    compiled = Path(
        py_compile.compile(str(other), cfile=str(file.with_name("planted.bin")), doraise=True)
    )
    content = bytearray(compiled.read_bytes())
    content[8:12] = int(found.st_mtime).to_bytes(4, "little")
    content[12:16] = (found.st_size & 0xFFFF_FFFF).to_bytes(4, "little")
    cached = Path(importlib.util.cache_from_source(str(file)))
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(content)
    file.with_suffix(".pyc").write_bytes(content)
    other.unlink()
    compiled.unlink()


def test_planted_bytecode_is_nothing(directory):
    directory.file.write_text(GOOD)
    plant_bytecode(directory.file)
    assert directory.load().plugin.name == "gen"
    assert RAN == []
    naive(directory.file)  # the control: an import by path runs it
    assert len(RAN) == 1


def test_planted_bytecode_in_a_package_is_nothing(directory):
    package = directory.plugins / "gen"
    package.mkdir()
    (package / "__init__.py").write_text("from . import names\n" + GOOD)
    (package / "names.py").write_text("")
    plant_bytecode(package / "__init__.py")
    plant_bytecode(package / "names.py")
    (package / "names.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    assert directory.load().plugin.name == "gen"
    assert RAN == []
    assert not list(package.rglob("gen*.pyc"))


def test_a_module_that_is_only_bytecode_is_not_found(directory):
    package = directory.plugins / "gen"
    package.mkdir()
    (package / "__init__.py").write_text("from . import names\n" + GOOD)
    (package / "names.py").write_text(PLANTED)
    py_compile.compile(str(package / "names.py"), cfile=str(package / "names.pyc"), doraise=True)
    (package / "names.py").unlink()
    assert "cannot import name 'names'" in directory.fails().message
    assert RAN == []


def everyone_writes(directory: Directory) -> None:
    directory.file.write_text(PLANTED)
    directory.file.chmod(0o666)


def foreign_owner(directory: Directory) -> None:
    directory.file.write_text(PLANTED)
    os.chown(directory.file, 12_345, -1)


def link_out(directory: Directory) -> None:
    (directory.root / "planted.py").write_text(PLANTED)
    directory.file.symlink_to(directory.root / "planted.py")


def hard_link(directory: Directory) -> None:
    (directory.root / "planted.py").write_text(PLANTED)
    os.link(directory.root / "planted.py", directory.file)


def fifo(directory: Directory) -> None:
    os.mkfifo(directory.file)


def too_large(directory: Directory) -> None:
    directory.file.write_text(PLANTED.ljust(2 * MAX_FILE_BYTES, "#"))


def package_out(directory: Directory) -> None:
    (directory.root / "gen").mkdir()
    (directory.root / "gen" / "__init__.py").write_text(PLANTED)
    (directory.plugins / "gen").symlink_to(directory.root / "gen")


def loose_package(directory: Directory) -> None:
    (directory.plugins / "gen").mkdir()
    (directory.plugins / "gen" / "__init__.py").write_text(PLANTED)
    (directory.plugins / "gen").chmod(0o777)


def loose_module_of_a_package(directory: Directory) -> None:
    (directory.plugins / "gen").mkdir()
    (directory.plugins / "gen" / "__init__.py").write_text("from . import x\n" + GOOD)
    (directory.plugins / "gen" / "x.py").write_text(PLANTED)
    (directory.plugins / "gen" / "x.py").chmod(0o646)


def part_of_a_package_out(directory: Directory) -> None:
    package_out(directory)
    (directory.plugins / "gen").unlink()
    (directory.plugins / "gen").mkdir()
    (directory.plugins / "gen" / "__init__.py").write_text("from . import sub\n" + GOOD)
    (directory.plugins / "gen" / "sub").symlink_to(directory.root / "gen")


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (everyone_writes, "plugins/gen.py: may be written by everyone"),
        pytest.param(foreign_owner, "plugins/gen.py: belongs to user 12345", marks=needs_root),
        (link_out, "plugins/gen.py: is a link that leads out"),
        (hard_link, "plugins/gen.py: has another name"),
        (fifo, "plugins/gen.py: is not a regular file"),
        (too_large, "plugins/gen.py: is larger than"),
        (package_out, "plugins/gen: is a link that leads out"),
        (loose_package, "plugins/gen: may be written by everyone"),
        (loose_module_of_a_package, "plugins/gen/x.py: may be written by everyone"),
        (part_of_a_package_out, "plugins/gen/sub: is a link that leads out"),
    ],
)
def test_what_others_could_have_written_never_runs(directory, plant, says):
    plant(directory)
    failure = directory.fails()
    assert failure.code == "not_trusted"
    assert failure.message.startswith(says)
    assert RAN == []


@pytest.mark.parametrize("plant", [everyone_writes, link_out, hard_link, too_large])
def test_the_control_an_import_by_path_runs_it(directory, plant):
    plant(directory)
    naive(directory.file)
    assert len(RAN) == 1


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_directory_above_that_everyone_may_write_is_a_fault_of_the_configuration(directory, up):
    directory.file.write_text(PLANTED)
    loose = (directory.plugins, *directory.plugins.parents)[up]
    loose.chmod(0o777)
    with pytest.raises(ConfigurationError) as caught:
        directory.loader.discover()
    (fault,) = caught.value.faults
    assert (fault.file, fault.expected) == (str(loose), "may be written by everyone; chmod o-w")


# -- packages


def package(directory: Directory, **files: str) -> None:
    for name, source in files.items():
        file = directory.plugins / "gen" / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    (directory.plugins / "gen" / "__init__.py").write_text(
        files.get("init", "from .a.b import deep\nfrom . import late\n") + GOOD
    )


def test_a_package_imports_its_modules_late_ones_too_and_no_others(directory):
    package(
        directory,
        late="def load():\n    from . import later\n    return later.X\n",
        later="X = 7\n",
    )
    package(directory, a__b__deep="from ... import later\nX = later.X\n")
    (directory.plugins / "gen" / "a" / "__init__.py").touch()
    loaded = directory.load()
    modules = {name for name in sys.modules if name.startswith(loaded.module + ".")}
    assert {name.removeprefix(loaded.module) for name in modules} == {
        ".a", ".a.b", ".a.b.deep", ".late", ".later",
    }  # fmt: skip
    top = sys.modules[loaded.module]
    assert top.__path__ == []
    assert top.late.load() == 7
    assert importlib.import_module(".later", top.__name__).X == 7
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(".json", top.__name__)
    (directory.plugins / "gen" / "appeared.py").write_text(PLANTED)
    with pytest.raises(ModuleNotFoundError):  # it was not there when the package was read
        importlib.import_module(".appeared", top.__name__)
    directory.loader.forget(loaded)
    assert not [name for name in sys.modules if name.startswith(loaded.module)]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(loaded.module + ".later")


def test_a_module_of_a_package_that_fails_is_told_with_its_line(directory):
    package(directory, bad="x = 1\ny = = 2\n", init="from . import bad\n")
    failure = directory.fails()
    assert failure.code == "import_failed"
    assert "plugins/gen/bad.py:2" in failure.message
    package(directory, bad="\nraise ValueError('why')\n", init="from . import bad\n")
    assert "plugins/gen:1: ValueError: why" in directory.fails().message


def test_a_traceback_shows_the_lines_that_ran(directory):
    package(directory, bad="def f():\n    raise ValueError  # here\n", init="from . import bad\n")
    top = sys.modules[directory.load().module]
    (directory.plugins / "gen" / "bad.py").unlink()
    linecache.clearcache()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        top.bad.f()
    assert "# here" in "".join(traceback.format_exception(caught.value))


def test_a_package_has_bounds(directory):
    package(directory, init="")
    for number in range(MAX_PACKAGE_FILES):
        (directory.plugins / "gen" / f"m{number}.py").touch()
    failure = directory.fails()
    assert failure.code == "unreadable"
    assert "more than 1000 modules" in failure.message


def test_directories_that_go_round_are_a_fault(directory):
    package(directory, init="")
    (directory.plugins / "gen" / "round").symlink_to(".")
    assert directory.fails().code == "unreadable"


def test_nothing_of_the_process_changes_but_the_one_importer(directory):
    path, hooks, finders = list(sys.path), list(sys.path_hooks), list(sys.meta_path)
    package(directory, init="")
    directory.load()
    assert (sys.path, sys.path_hooks, sys.meta_path) == (path, hooks, finders)
    assert not list(directory.root.rglob("__pycache__"))
    assert not [name for name in sys.path_importer_cache if str(directory.root) in name]


# -- swapped between check and import


class Swap:
    """Has `do` done at the `at`-th look at the file system, as somebody beside us would at the worst moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, do: Callable[[], None]) -> None:
        self.looks = 0
        for name in ("open", "fstat", "readlink", "scandir"):
            monkeypatch.setattr(os, name, self._then(getattr(os, name), at, do))

    def _then(
        self, look: Callable[..., Any], at: int, do: Callable[[], None]
    ) -> Callable[..., Any]:
        def looking(*args: Any, **kwargs: Any) -> Any:
            self.looks += 1
            if self.looks == at:
                do()
            return look(*args, **kwargs)

        return looking


def swaps(directory: Directory) -> list[Callable[[], None]]:
    """Each puts planted code in the place of the good: a file anyone may write, a link out, a directory."""
    loose, link = directory.root / "loose.py", directory.root / "link"
    loose.write_text(PLANTED)
    loose.chmod(0o666)
    (directory.root / "out.py").write_text(PLANTED)
    link.symlink_to(directory.root / "out.py")
    evil = directory.root / "evil"
    evil.mkdir()
    (evil / "gen.py").write_text(PLANTED)
    evil.chmod(0o777)

    def swap_directories() -> None:
        directory.plugins.rename(directory.root / "away")
        evil.rename(directory.plugins)

    return [
        lambda: os.replace(loose, directory.file),
        lambda: os.replace(link, directory.file),
        swap_directories,
    ]


@pytest.mark.parametrize("kind", range(3))
def test_swapped_at_any_look_planted_code_does_not_run(tmp_path, kind):
    outcomes: set[str] = set()
    at = looks = 0
    while at <= looks:
        at += 1
        directory = Directory(tmp_path / f"at {at}")
        directory.file.write_text(GOOD)
        RAN.clear()
        with pytest.MonkeyPatch.context() as patches:
            swap = Swap(patches, at, swaps(directory)[kind])
            try:
                directory.loader.forget(directory.load())
                outcomes.add("loaded")
            except (LoadFailed, ConfigurationError):
                outcomes.add("refused")
        looks = max(looks, swap.looks)
        assert RAN == []
    assert outcomes == {"loaded", "refused"}
    assert looks > 20


def test_the_control_a_check_before_an_import_is_too_early(directory):
    directory.file.write_text(GOOD)
    found = directory.loader.discover().found["gen"]
    directory.loader.read(found)  # checked, and good
    swaps(directory)[0]()
    naive(found.file)
    assert len(RAN) == 1
