"""Tools: what there is, and a call that is answered at once."""

from typing import Any

import msgspec

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.api.shapes import Listing, ToolResult
from yoi_daemon.model.plugins import ToolInfo
from yoi_daemon.plugins.tools import call_tool as run_tool


async def list_tools(call: Call) -> Answer:
    """Every tool this token may call, with the JSON Schemas of its arguments and its result."""
    items: list[dict[str, Any]] = []
    for plugin_id, service in call.daemon.plugins.services.items():
        if service.loaded is None or not call.principal.may("tools:call", plugin_id):
            continue
        tools = service.loaded.manifest.tools
        items.extend(
            {
                "plugin_id": plugin_id,
                "tool": spec.name,
                "description": spec.description,
                "arguments": spec.arguments,
                "result": spec.result,
            }
            for spec in tools.values()
        )
    return Answer({"items": items})


async def call_tool(call: Call) -> Answer:
    """Runs a tool now, beside its plugin's queue."""
    arguments = await call.json_bytes()
    service = call.daemon.plugins.service(call.params["plugin_id"])
    result = await run_tool(service, call.params["tool"], arguments)
    return Answer({"result": msgspec.Raw(result)})


ROUTES = (
    Route("GET", "/api/tools", "tools:call", list_tools, gives=Listing[ToolInfo]),
    Route(
        "POST",
        "/api/tools/<plugin_id>/<tool>",
        "tools:call",
        call_tool,
        gives=ToolResult,
        # Each tool's own arguments are in the list of tools.
        refuses=(
            "invalid_request",
            "plugin_not_found",
            "tool_not_found",
            "limit_reached",
            "service_unavailable",
            "service_failed",
            "safe_mode",
            "tool_failed",
            "tool_timeout",
        ),
        takes=Any,
    ),
)
