"""Plugins: list and detail."""

from yoi_daemon.api.routing import Answer, Call, Route


async def list_plugins(call: Call) -> Answer:
    """Every plugin that was found and is enabled."""
    return Answer({"items": call.daemon.plugins.records()})


async def show_plugin(call: Call) -> Answer:
    """One plugin, its status asked."""
    return Answer(await call.daemon.plugins.record(call.params["plugin_id"]))


ROUTES = (
    Route("GET", "/api/plugins", "plugins:read", list_plugins),
    Route("GET", "/api/plugins/<plugin_id>", "plugins:read", show_plugin),
)
