"""Plugins: list, detail, and the commands to their services."""

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Listing
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.daemon.status import Reloaded
from yoi_daemon.model.errors import Code
from yoi_daemon.model.plugins import PluginReceipt, PluginRecord


async def list_plugins(request: Request) -> Answer:
    """List the plugins that were found and are enabled."""
    return Answer({"items": request.daemon.plugins.records()})


async def show_plugin(request: Request) -> Answer:
    """Show one plugin and ask its status."""
    return Answer(await request.daemon.plugins.record(request.params["plugin_id"]))


async def start_plugin(request: Request) -> Answer:
    """Start a service and forget its restarts; answer when it is starting."""
    return Answer(await request.daemon.plugins.start(**request.params))


async def stop_plugin(request: Request) -> Answer:
    """Drain and stop a service; answer when it has stopped."""
    return Answer(await request.daemon.plugins.stop(**request.params))


async def restart_plugin(request: Request) -> Answer:
    """Stop a service and start it again."""
    return Answer(await request.daemon.plugins.restart(**request.params))


async def reload_plugin(request: Request) -> Answer:
    """Reload one plugin's code and settings; refuse them where they are bad, and keep the old."""
    plugin_id = request.params["plugin_id"]
    return Answer(await reload(request.daemon, plugin_id))


async def reload_all(request: Request) -> Answer:
    """Reload the configuration and every plugin; refuse all of it where anything is bad."""
    return Answer(await reload(request.daemon))


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
