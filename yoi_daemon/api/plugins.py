"""Plugins: list, detail, and the commands to their services."""

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.api.shapes import Listing
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.daemon.status import Reloaded
from yoi_daemon.model.errors import Code
from yoi_daemon.model.plugins import PluginReceipt, PluginRecord
from yoi_daemon.plugins.summary import record_of
from yoi_daemon.plugins.supervision.service import Service


async def list_plugins(call: Call) -> Answer:
    """Every plugin that was found and is enabled."""
    return Answer({"items": call.daemon.plugins.records()})


async def show_plugin(call: Call) -> Answer:
    """One plugin, its status asked."""
    return Answer(await call.daemon.plugins.record(call.params["plugin_id"]))


async def start_plugin(call: Call) -> Answer:
    """Starts a service and forgets its restarts; answers when it is starting."""
    service = _service(call)
    await service.start()
    return await _answer(call, service)


async def stop_plugin(call: Call) -> Answer:
    """Drains and stops a service; answers when it has stopped."""
    service = _service(call)
    await service.stop()
    return await _answer(call, service)


async def restart_plugin(call: Call) -> Answer:
    """Stops and starts a service."""
    service = _service(call)
    await service.restart()
    return await _answer(call, service)


async def reload_plugin(call: Call) -> Answer:
    """Reads one plugin's code and settings again; a bad one is refused and the old goes on."""
    plugin_id = call.params["plugin_id"]
    return Answer(await reload(call.daemon, plugin_id))


async def reload_all(call: Call) -> Answer:
    """Reads the configuration and every plugin again; refused whole where something is bad."""
    return Answer(await reload(call.daemon))


def _service(call: Call) -> Service:
    return call.daemon.plugins.service(call.params["plugin_id"])


async def _answer(call: Call, service: Service) -> Answer:
    log = call.daemon.event_log
    # Position and state in one stretch, told after the commit.
    seq, record = service.lifecycle.seq, record_of(service)
    await log.committed(seq)
    return Answer({"plugin": record, "cursor": log.cursors.encode(seq)})


_PLUGIN = "/api/plugins/<plugin_id>"
_OF_COMMAND: tuple[Code, ...] = ("plugin_not_found", "invalid_state", "draining")
ROUTES = (
    Route("GET", "/api/plugins", "status:read", list_plugins, gives=Listing[PluginRecord]),
    Route(
        "GET",
        _PLUGIN,
        "status:read",
        show_plugin,
        gives=PluginRecord,
        refuses=("plugin_not_found",),
    ),
    Route(
        "POST",
        f"{_PLUGIN}/start",
        "plugins:admin",
        start_plugin,
        gives=PluginReceipt,
        refuses=_OF_COMMAND,
        is_keyed=True,
    ),
    Route(
        "POST",
        f"{_PLUGIN}/stop",
        "plugins:admin",
        stop_plugin,
        gives=PluginReceipt,
        refuses=_OF_COMMAND,
        is_keyed=True,
    ),
    Route(
        "POST",
        f"{_PLUGIN}/restart",
        "plugins:admin",
        restart_plugin,
        gives=PluginReceipt,
        refuses=_OF_COMMAND,
        is_keyed=True,
    ),
    Route(
        "POST",
        f"{_PLUGIN}/reload",
        "plugins:admin",
        reload_plugin,
        gives=Reloaded,
        refuses=_OF_COMMAND,
        is_keyed=True,
    ),
    Route(
        "POST",
        "/api/reload",
        "plugins:admin",
        reload_all,
        gives=Reloaded,
        refuses=("invalid_state", "draining"),
        is_keyed=True,
    ),
)
