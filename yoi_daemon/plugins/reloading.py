"""Prepares a reload of plugins: loads everything that changed, and changes nothing."""

from collections.abc import Mapping
from contextlib import suppress

import msgspec
import trio

from yoi_daemon.model.errors import ConfigFault, Refused
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.lane.ledger import Restored
from yoi_daemon.plugins.loading.discovery import Found
from yoi_daemon.plugins.loading.loader import LoadedPlugin, Loader
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.supervision.installation import LOAD_TIMEOUT_S, Installed
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk.config import Config


class Change(msgspec.Struct, frozen=True):
    """A plugin to take: new code, new settings, or both."""

    plugin_id: str
    loaded: LoadedPlugin
    settings: PluginSettings


class PluginPlan(msgspec.Struct, frozen=True):
    """What a reload of plugins will do, all of them or `only` one."""

    only: str | None
    changes: tuple[Change, ...]
    removed: tuple[str, ...]
    failed: Mapping[str, LoadFailed]
    """Plugins that could not be loaded before and still cannot be."""
    bad_files: tuple[ConfigFault, ...]
    restored: Mapping[str, Restored] = {}
    """What the store keeps of each plugin that is new."""

    @property
    def changed(self) -> tuple[str, ...]:
        """Returns the ids of the plugins that go, come or change."""
        return (*self.removed, *(change.plugin_id for change in self.changes))


async def load_changed(
    loader: Loader,
    settings: Settings,
    services: Mapping[str, Service],
    only: str | None = None,
) -> PluginPlan:
    """Loads what changed, of all plugins or `only` one. Raises `Refused` (`invalid_state`) with every fault.

    A plugin that could not be loaded before and still cannot be is no fault: there is nothing to keep.
    """

    def load_all() -> PluginPlan:
        return _load_changed(loader, settings, services, only)

    with trio.move_on_after(LOAD_TIMEOUT_S):
        # Abandoned when late: an import in a thread cannot be ended.
        return await trio.to_thread.run_sync(load_all, abandon_on_cancel=True)
    raise Refused(
        "invalid_state", f"reading the plugins took over {LOAD_TIMEOUT_S:g} s; nothing was changed"
    )


def _load_changed(
    loader: Loader, settings: Settings, services: Mapping[str, Service], only: str | None
) -> PluginPlan:
    discovery = loader.discover()
    found = {
        plugin_id: candidate
        for plugin_id, candidate in discovery.found.items()
        if settings.is_enabled(plugin_id)
    }
    if only is not None and only not in found and only not in services:
        raise Refused(
            "plugin_not_found", f"there is no plugin {only} here, nor a file of this name"
        )
    failed: dict[str, LoadFailed] = {}
    changes: list[Change] = []
    faults: list[str] = []
    for plugin_id, candidate in found.items():
        if only not in (None, plugin_id):
            continue
        service = services.get(plugin_id)
        wanted = settings.for_plugin(plugin_id)
        try:
            installed = None if service is None else service.installed
            loaded = _load_if_changed(
                candidate, wanted, installed, loader, is_named=only is not None
            )
        except LoadFailed as failure:
            if service is None or service.installed.loaded is not None or only is not None:
                faults.append(f"{failure.code}: {failure.message}")
            else:
                failed[plugin_id] = failure
            continue
        if loaded is not None and service is not None and service.supervisor.is_wedged:
            faults.append(
                f"wedged: {plugin_id}: {service.lifecycle.reason.message}; restart the daemon"
            )
        elif loaded is not None:
            changes.append(Change(plugin_id, loaded, wanted))
    if faults:
        raise Refused(
            "invalid_state",
            "the plugins cannot be taken as they are; everything goes on as before",
            faults=faults,
        )
    removed = tuple(name for name in services if name not in found and only in (None, name))
    return PluginPlan(only, tuple(changes), removed, failed, discovery.faults)


def _load_if_changed(
    found: Found,
    wanted: PluginSettings,
    installed: Installed | None,
    loader: Loader,
    *,
    is_named: bool,
) -> LoadedPlugin | None:
    source = loader.read(found)
    held = None if installed is None else installed.held
    if held is not None and not is_named and held.edition == loader.edition(source, wanted.config):
        return None  # only what was corrected, or is asked for by name, comes out of a quarantine
    before = None if installed is None else installed.loaded
    if installed is None or before is None or source.digest != before.digest:
        return loader.load(source, wanted.config)
    # The same code: not run again. A secret's file may have changed though the table did not.
    config = loader.configure(before.plugin, wanted.config)
    if _is_same(config, before.config) and wanted == installed.settings:
        return None
    edition = loader.edition(source, wanted.config)
    return msgspec.structs.replace(before, config=config, edition=edition)


def _is_same(config: Config, before: Config) -> bool:
    with suppress(BaseException):  # an author's comparison, in a thread: no cancellation comes here
        return config == before
    return False
