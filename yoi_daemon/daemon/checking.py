"""`yoi-daemon check`: everything that would keep a plugin or the daemon from starting, all at once."""

from collections.abc import Mapping

import msgspec

from yoi_daemon.daemon.certificates import open_certificates
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.plugins.discovery import Found, discover
from yoi_daemon.plugins.loading import LoadFailed, compile_plugin, load_plugin


class CheckedPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """One module: `code` and `message` say what is wrong; both are None where nothing is."""

    plugin_id: str
    enabled: bool
    code: str | None = None
    message: str | None = None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found; `is_good` when there is nothing to correct."""

    config_file: str
    faults: tuple[ConfigFault, ...]
    plugins: tuple[CheckedPlugin, ...]

    @property
    def is_good(self) -> bool:
        return not self.faults and all(plugin.code is None for plugin in self.plugins)


def check(
    directories: Directories, environ: Mapping[str, str], *, import_modules: bool
) -> CheckReport:
    """Reads the configuration and looks at every module; runs enabled ones only with `import_modules`.

    Without it their code is compiled, and their settings cannot be held against anything.
    """
    faults: list[ConfigFault] = []
    try:
        settings = read_settings(directories, environ)
    except ConfigurationError as error:
        settings = None
        faults.extend(error.faults)
    try:
        if settings is not None:
            open_certificates(settings, directories)
    except ConfigurationError as error:
        faults.extend(error.faults)
    try:
        discovery = discover(directories.plugins)
    except ConfigurationError as error:
        faults.extend(error.faults)
        return CheckReport(
            config_file=str(directories.config_file), faults=tuple(faults), plugins=()
        )
    faults.extend(discovery.faults)
    plugins: list[CheckedPlugin] = []
    for plugin_id, found in discovery.found.items():
        enabled = settings is None or settings.is_enabled(plugin_id)
        table = {} if settings is None else settings.for_plugin(plugin_id).config
        imports = import_modules and enabled and settings is not None
        failure = _try_module(found, table, directories, imports=imports)
        plugins.append(
            CheckedPlugin(
                plugin_id=plugin_id,
                enabled=enabled,
                code=None if failure is None else failure.code,
                message=None if failure is None else failure.message,
            )
        )
    if settings is not None:
        faults.extend(
            ConfigFault(
                file=str(directories.config_file),
                key=f"plugins.{name}",
                expected=f"there is no {name}.py or {name}/__init__.py in {directories.plugins}",
            )
            for name, plugin in settings.plugins.items()
            if name not in discovery.found and plugin.enabled is not False
        )
    return CheckReport(
        config_file=str(directories.config_file), faults=tuple(faults), plugins=tuple(plugins)
    )


def _try_module(
    found: Found, table: dict[str, object], directories: Directories, *, imports: bool
) -> LoadFailed | None:
    try:
        if imports:
            load_plugin(
                found, table, config_file=directories.config_file, secrets=directories.secrets
            )
        else:
            compile_plugin(found)
    except LoadFailed as failure:
        return failure
    return None
