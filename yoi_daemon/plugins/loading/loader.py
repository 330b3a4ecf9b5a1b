"""From a module's file to a plugin: read, compiled from those bytes, run, and its settings decoded."""

import hashlib
import sys
import traceback
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import msgspec

from yoi_daemon.model.directories import Directories
from yoi_daemon.model.manifest import HookSource, PluginManifest
from yoi_daemon.model.public_text import public_text
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.plugins.boots import Boots, NotJournaled
from yoi_daemon.plugins.loading.configuring import load_config
from yoi_daemon.plugins.loading.discovery import Discovery, Found, discover
from yoi_daemon.plugins.loading.source import (
    LoadFailed,
    Source,
    SourceImporter,
    compile_source,
    read_source,
)
from yoi_daemon.sdk.config import Config, Secret
from yoi_daemon.sdk.plugin import API_VERSION, Plugin, PluginDefinitionError
from yoi_daemon.trusted_files import Trust


class LoadedPlugin(msgspec.Struct, frozen=True):
    """A plugin ready to start. `digest` is of its source, and part of the name of its `module`; `edition`
    is of its source and its table.

    `redact` takes secrets out of text that is shown, an exception's.
    """

    plugin: Plugin[Any]
    """The author's functions: for the executor alone. All else reads the manifest."""
    manifest: PluginManifest
    config: Config
    digest: str
    module: str
    file: str
    folder: str
    base: str
    redact: Callable[[str], str] = str
    edition: str = ""


class Loader:
    """Reads, checks and runs the modules of one plugin directory. Every method blocks: call it in a thread.

    `boots` is told of each module before it is run.
    """

    def __init__(
        self,
        directories: Directories,
        trust: Trust,
        redaction: Redaction,
        boots: Boots | None = None,
    ) -> None:
        self._directories = directories
        self._trust = trust
        self._redaction = redaction
        self._boots = NotJournaled() if boots is None else boots
        self._importer = SourceImporter()

    def discover(self) -> Discovery:
        """Returns what lies in the directory. Raises `ConfigurationError`."""
        return discover(self._directories.plugins, self._trust)

    def read(self, found: Found) -> Source:
        """Returns the plugin's source. Raises `LoadFailed`: `unreadable`, `not_trusted`."""
        return read_source(found, self._trust)

    def edition(self, source: Source, table: dict[str, Any]) -> str:
        """Names the source and `table` together."""
        told = hashlib.sha256(source.digest.encode() + msgspec.json.encode(table, order="sorted"))
        return told.hexdigest()[:16]

    def load(self, source: Source, table: dict[str, Any]) -> LoadedPlugin:
        """Runs the module and decodes `table`, its `[plugins.NAME.config]`. Raises `LoadFailed`."""
        plugin_id = source.found.plugin_id
        edition = self.edition(source, table)
        self._boots.enter(plugin_id, edition)
        try:
            loaded = self._load(source, table)
            return msgspec.structs.replace(loaded, edition=edition)
        finally:
            # Also where the load was given up for late: in hand until its thread has ended.
            self._boots.leave(plugin_id)

    def _load(self, source: Source, table: dict[str, Any]) -> LoadedPlugin:
        code = compile_source(source)
        name = source.module
        before = sys.modules.get(name)
        try:
            plugin = self._run_module(source, code)
            manifest = plugin.manifest()
            config = self.configure(plugin, table)
        except LoadFailed:
            self._restore(name, before)  # what ran before goes on with its own module
            raise
        except BaseException as error:
            # An author's annotations and checks run here too; a value may be in what they raise.
            self._restore(name, before)
            raise LoadFailed(  # noqa: ASYNC104 (runs in a thread: no cancellation comes here)
                "definition_error",
                f"{source.found.name}: {type(error).__name__} while its declarations were read; "
                "annotations must be importable at run time",
            ) from error
        return LoadedPlugin(
            plugin=plugin,
            manifest=manifest,
            config=config,
            digest=source.digest,
            module=name,
            file=str(source.found.file),
            # A single module is its own folder: nothing lies below it.
            folder=str(source.folder if source.is_package else source.found.file),
            base=str(source.folder.parent if source.is_package else source.folder),
            redact=self._redaction.apply,
        )

    def configure(self, plugin: Plugin[Any], table: dict[str, Any]) -> Config:
        """Returns the plugin's settings. Raises `LoadFailed`: `configuration_error`, `definition_error`."""
        return load_config(plugin, table, self._directories, self._trust, self._redaction)

    def forget(self, loaded: LoadedPlugin) -> None:
        """Lets go of a module that another version has taken over from."""
        self._importer.forget(loaded.module)

    def _run_module(self, source: Source, code: types.CodeType) -> Plugin[Any]:
        found = source.found
        module = self._importer.make_module(source)
        sys.modules[source.module] = module  # msgspec and typing look annotations up here
        try:
            exec(code, module.__dict__)
        except PluginDefinitionError as error:
            raise LoadFailed(
                "definition_error", f"{found.name}: {public_text(f'{error}')}"
            ) from error
        except BaseException as error:
            raise LoadFailed(  # noqa: ASYNC104 (runs in a thread: no cancellation comes here)
                "import_failed",
                f"{found.name}{_line(error, found)}: {type(error).__name__}: {public_text(f'{error}')}",
            ) from error
        return _checked(module.__dict__.get("plugin"), found)

    def _restore(self, name: str, before: types.ModuleType | None) -> None:
        if before is None:
            self._importer.forget(name)
        else:
            sys.modules[name] = before

    @contextmanager
    def installed(self) -> Generator[None]:
        """Plugins may import their own modules for as long as the context."""
        with self._importer.installed():
            yield


def _checked(plugin: Any, found: Found) -> Plugin[Any]:
    if not isinstance(plugin, Plugin):
        raise LoadFailed(
            "definition_error",
            f'{found.name}: expected plugin = Plugin("{found.plugin_id}") at the module\'s top',
        )
    checked = cast("Plugin[Any]", plugin)
    if checked.name != found.plugin_id:
        raise LoadFailed(
            "definition_error",
            f'{found.name}: Plugin("{checked.name}") must have the name of its file, "{found.plugin_id}"',
        )
    if not 1 <= checked.api_version <= API_VERSION:
        raise LoadFailed(
            "api_version",
            f"{found.name}: asks for version {checked.api_version} of the plugin interface; "
            f"this daemon has 1 to {API_VERSION}",
        )
    if not checked.ingresses and checked.on_start is None and not checked.tools:
        raise LoadFailed(
            "definition_error",
            f"{found.name}: declares nothing; add a start, an ingress or a tool",
        )
    for spec in checked.ingresses.values():
        declaration = spec.declaration
        verifies = isinstance(declaration.source, HookSource)
        if verifies and not _has_secret(checked.config_type):
            raise LoadFailed(
                "definition_error",
                f"{found.name}: ingress {declaration.name} verifies signatures; its Config needs a field "
                "`secret: Secret` or `secret: list[Secret]`",
            )
    return checked


def _has_secret(config_type: type[Config]) -> bool:
    kinds = {field.name: field.type for field in msgspec.structs.fields(config_type)}
    return kinds.get("secret") in (Secret, list[Secret])


def _line(error: BaseException, found: Found) -> str:
    lines = [
        n
        for frame, n in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(found.file)
    ]
    return f":{lines[-1]}" if lines else ""
