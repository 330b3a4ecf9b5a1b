"""A plugin's source: read once from trusted files, then compiled and run from those bytes alone.

No `.pyc` is looked for or written, no `sys.path` is asked or changed: a planted file beside the plugin is
nothing to the import system, and a plugin called `json.py` shadows nothing.
"""

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from yoi_daemon.model.errors import YoiError
from yoi_daemon.model.public_text import public_text
from yoi_daemon.model.workers import cut_text
from yoi_daemon.plugins.loading.discovery import INIT, Found
from yoi_daemon.trusted_files import NotTrusted, Trust, list_trusted, read_trusted

MODULE_PREFIX = "yoi_plugin_"
"""Plugin modules have this before their name. No dot in it: a package's top level must be a module."""
MAX_MESSAGE_BYTES = 8192
"""What is kept of why a module cannot be a plugin: room for some forty faults of its settings."""
MAX_PACKAGE_FILES = 1000
MAX_PACKAGE_BYTES = 16_777_216
MAX_PACKAGE_DEPTH = 16
"""Of the modules of one package: bounds against a directory that was put there by mistake."""


class LoadFailed(YoiError):
    """A module cannot be a plugin as it is. No restart is spent on it: it waits for a change.

    `code` is `unreadable`, `not_trusted`, `syntax_error`, `import_failed`, `import_timeout`,
    `api_version`, `definition_error` or `configuration_error`; `message` says where and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        # An author's exception may say anything at any length; events and logs carry this.
        printable = message.encode("utf-8", "backslashreplace")
        self.message = cut_text(printable.decode("utf-8"), MAX_MESSAGE_BYTES)[0]


class Source(msgspec.Struct, frozen=True):
    """The bytes of a module, or of all modules of a package, by their path below `folder`."""

    found: Found
    files: Mapping[str, bytes]
    digest: str
    """SHA-256 of names and contents."""

    @property
    def is_package(self) -> bool:
        return self.found.file.name == INIT

    @property
    def folder(self) -> Path:
        return self.found.file.parent

    @property
    def module(self) -> str:
        """Returns the name in `sys.modules`: two versions live side by side while one takes over.

        No plugin id has two underscores.
        """
        return f"{MODULE_PREFIX}{self.found.plugin_id}__{self.digest[:12]}"


def read_source(found: Found, trust: Trust) -> Source:
    """Reads the module, or the package whole. Blocking. Raises `LoadFailed`: `unreadable`, `not_trusted`."""
    top = found.file.parent
    is_package = found.file.name == INIT
    plugins = top.parent if is_package else top
    files: dict[str, bytes] = {}
    try:
        for file in _modules(top, plugins, trust) if is_package else (found.file,):
            files[os.fspath(file.relative_to(top))] = read_trusted(file, trust, beneath=plugins)
            if len(files) > MAX_PACKAGE_FILES or sum(map(len, files.values())) > MAX_PACKAGE_BYTES:
                raise LoadFailed(
                    "unreadable",
                    f"{found.name}: has more than {MAX_PACKAGE_FILES} modules or "
                    f"{MAX_PACKAGE_BYTES} bytes of them",
                )
    except NotTrusted as error:
        raise LoadFailed("not_trusted", f"{_shown(error.path, plugins)}: {error.reason}") from error
    except OSError as error:
        raise LoadFailed("unreadable", f"{found.name}: {error.strerror}") from error
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(content).digest())
    return Source(found, files, digest.hexdigest())


def compile_source(source: Source, file: str | None = None) -> types.CodeType:
    """Returns the code of one file of the source, of the top without `file`. Raises `LoadFailed` (`syntax_error`)."""
    top = source.found.file.name
    place = source.found.name if file in (None, top) else f"{source.found.name}/{file}"
    name = top if file is None else file
    try:
        return compile(
            source.files[name], os.fspath(source.folder / name), "exec", dont_inherit=True
        )
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{place}:{line}" if line else place
        raise LoadFailed(
            "syntax_error", f"{place}: {public_text(str(getattr(error, 'msg', error)))}"
        ) from error
    except (RecursionError, MemoryError, OverflowError) as error:
        raise LoadFailed("syntax_error", f"{place}: is nested too deeply") from error


class SourceImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports plugins' modules from their sources. One stands in `sys.meta_path` while plugins live.

    Their `__path__` is empty, so that no other finder of the process finds anything below a plugin.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    @contextmanager
    def installed(self) -> Generator[None]:
        """Plugins' modules can be imported, by late imports too, for as long as the context."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)

    def make_module(self, source: Source) -> types.ModuleType:
        """Returns the plugin's own module, not yet run; modules below it can be imported from now on."""
        self._sources[source.module] = source
        spec = self.find_spec(source.module, None)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__file__ = spec.origin
        return module

    def forget(self, module: str) -> None:
        """Lets go of a plugin's modules."""
        self._sources.pop(module, None)
        for name in [*sys.modules]:
            if name == module or name.startswith(module + "."):
                del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None, /
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the spec of a plugin's module; None for any other."""
        located = self._locate(fullname)
        if located is None:
            return None
        source, file = located
        return importlib.machinery.ModuleSpec(
            fullname, self, origin=os.fspath(source.folder / file), is_package=_is_package(file)
        )

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs a module below a plugin's own."""
        spec = module.__spec__
        assert spec is not None
        module.__file__ = spec.origin
        exec(self.get_code(spec.name), module.__dict__)

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiled from the bytes that were read."""
        source, file = self._located(fullname)
        if file not in source.files:  # a directory without __init__.py: a package that is empty
            return compile("", file, "exec", dont_inherit=True)
        try:
            return compile_source(source, file)
        except LoadFailed as failure:
            raise ImportError(failure.message, name=fullname) from failure

    def get_source(self, fullname: str) -> str:
        """Returns the text, for tracebacks."""
        source, file = self._located(fullname)
        return importlib.util.decode_source(source.files.get(file, b""))

    def is_package(self, fullname: str) -> bool:
        """Returns whether modules may lie below it."""
        return _is_package(self._located(fullname)[1])

    def _located(self, fullname: str) -> tuple[Source, str]:
        located = self._locate(fullname)
        if located is None:
            raise ImportError(f"no module named {fullname}", name=fullname)
        return located

    def _locate(self, fullname: str) -> tuple[Source, str] | None:
        """Returns the source a module belongs to, and its file there."""
        top, _, below = fullname.partition(".")
        source = self._sources.get(top)
        if source is None:
            return None
        if not below:
            return source, source.found.file.name
        if not source.is_package:
            return None
        base = below.replace(".", "/")
        for file in (f"{base}/{INIT}", f"{base}.py"):
            if file in source.files:
                return source, file
        if any(file.startswith(f"{base}/") for file in source.files):
            return source, f"{base}/{INIT}"
        return None


def _is_package(file: str) -> bool:
    return file == INIT or file.endswith(f"/{INIT}")


def _modules(folder: Path, plugins: Path, trust: Trust, depth: int = 0) -> Iterator[Path]:
    if depth > MAX_PACKAGE_DEPTH:
        raise OSError(0, f"is deeper than {MAX_PACKAGE_DEPTH} directories")
    for entry in list_trusted(folder, trust, beneath=plugins):
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.name.endswith(".py"):
            yield path
        elif entry.may_be_directory:
            with suppress(NotADirectoryError):  # a link to a file that is no module
                yield from _modules(path, plugins, trust, depth + 1)


def _shown(path: Path, plugins: Path) -> str:
    """Returns a path as answers may tell it."""
    try:
        return os.fspath(path.relative_to(plugins.parent))
    except ValueError:
        return "a directory above plugins"
