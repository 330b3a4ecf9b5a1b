"""`yoi-daemon check`: everything that would keep a plugin or the daemon from starting, all at once."""

import faulthandler
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from yoi_daemon.daemon.certificates import open_certificates
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import Settings
from yoi_daemon.plugins.loading.discovery import Discovery, Found
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.loading.source import LoadFailed, compile_source
from yoi_daemon.plugins.supervision.installation import LOAD_TIMEOUT_S
from yoi_daemon.trusted_files import GROUP_WRITABLE, trust_for

T = TypeVar("T")

LAST_RESORT_S = 5.0
"""After an import's deadline: one that lets no thread run (a regular expression, say) ends the process,
with every stack on standard error."""


class CheckedPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """One module: `code` and `message` say what is wrong; both are None where nothing is."""

    plugin_id: str
    enabled: bool
    code: str | None = None
    message: str | None = None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check. `warnings` keep nothing from starting."""

    config_file: str
    faults: tuple[ConfigFault, ...]
    plugins: tuple[CheckedPlugin, ...]
    warnings: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not self.faults and all(plugin.code is None for plugin in self.plugins)


def check(
    directories: Directories,
    environ: Mapping[str, str],
    *,
    import_modules: bool,
    import_timeout_s: float = LOAD_TIMEOUT_S,
) -> CheckReport:
    """Checks the configuration and every module; imports enabled modules only with `import_modules`.

    Without it modules are compiled, and their settings are not checked. A module that takes longer than
    `import_timeout_s` is given up; its thread goes on until the process ends.
    """
    trust = trust_for(directories)
    loader = Loader(directories, trust, Redaction())
    faults: list[ConfigFault] = []
    settings = _collect(faults, lambda: read_settings(directories, environ, trust))
    if settings is not None:
        _collect(faults, partial(open_certificates, settings, directories))
    discovery = _collect(faults, loader.discover)
    plugins: tuple[CheckedPlugin, ...] = ()
    if discovery is not None:
        faults.extend(discovery.faults)
        timeout_s = import_timeout_s if import_modules else None
        plugins = tuple(
            _check_plugin(loader, found, settings, timeout_s) for found in discovery.found.values()
        )
    if discovery is not None and settings is not None:
        faults.extend(_missing(settings, discovery, directories))
    warnings = tuple(f"{path}: {GROUP_WRITABLE}" for path in sorted(trust.group_writable))
    return CheckReport(
        config_file=str(directories.config_file),
        faults=tuple(faults),
        plugins=plugins,
        warnings=warnings,
    )


def _collect(faults: list[ConfigFault], step: Callable[[], T]) -> T | None:
    """Returns what `step` returns; None where it raises, and then its faults are added."""
    try:
        return step()
    except ConfigurationError as error:
        faults.extend(error.faults)
        return None


def _check_plugin(
    loader: Loader, found: Found, settings: Settings | None, timeout_s: float | None
) -> CheckedPlugin:
    plugin_id = found.plugin_id
    enabled = settings is None or settings.is_enabled(plugin_id)
    table = {} if settings is None else settings.for_plugin(plugin_id).config
    imports = enabled and settings is not None
    failure = _try_module(loader, found, table, timeout_s if imports else None)
    return CheckedPlugin(
        plugin_id=plugin_id,
        enabled=enabled,
        code=None if failure is None else failure.code,
        message=None if failure is None else failure.message,
    )


def _missing(
    settings: Settings, discovery: Discovery, directories: Directories
) -> Iterator[ConfigFault]:
    """Plugins that have settings and no module."""
    for name, plugin in settings.plugins.items():
        if name not in discovery.found and plugin.enabled is not False:
            yield ConfigFault(
                file=str(directories.config_file),
                key=f"plugins.{name}",
                expected=f"there is no {name}.py or {name}/__init__.py in {directories.plugins}",
            )


def _try_module(
    loader: Loader, found: Found, table: dict[str, Any], import_timeout_s: float | None
) -> LoadFailed | None:
    """Returns what is wrong with the module, which is imported only where there is a timeout."""
    try:
        source = loader.read(found)
        if import_timeout_s is None:
            compile_source(source)
            return None
    except LoadFailed as failure:
        return failure
    failures: list[LoadFailed] = []

    def load() -> None:
        try:
            loader.load(source, table)
        except LoadFailed as failure:
            failures.append(failure)

    # Of its own and a daemon's thread: an import cannot be ended, only left behind.
    thread = threading.Thread(target=load, name=f"import {found.plugin_id}", daemon=True)
    faulthandler.dump_traceback_later(import_timeout_s + LAST_RESORT_S, exit=True, file=2)
    with loader.installed():
        thread.start()
        thread.join(import_timeout_s)
    faulthandler.cancel_dump_traceback_later()
    if thread.is_alive():
        return LoadFailed(
            "import_timeout", f"{found.name}: the import took over {import_timeout_s:g} s"
        )
    return failures[0] if failures else None
