"""Tools: what there is, and a call that is answered at once."""

from typing import Any

import msgspec

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Listing, ToolResult
from yoi_daemon.model.plugins import ToolInfo


async def list_tools(request: Request) -> Answer:
    """List the tools that this token may call, with the JSON Schemas of their arguments and results."""
    may = request.principal.may
    tools = request.daemon.plugins.tools()
    return Answer({"items": [tool for tool in tools if may("tools:call", tool.plugin_id)]})


async def call_tool(request: Request) -> Answer:
    """Run a tool now, beside its plugin's queue."""
    arguments = await request.json_bytes()
    result = await request.daemon.plugins.call_tool(**request.params, arguments=arguments)
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
            "draining",
            "tool_failed",
            "tool_timeout",
        ),
        takes=Any,
    ),
)
