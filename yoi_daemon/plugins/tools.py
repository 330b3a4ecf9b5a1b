"""Tools: an author's functions that answer a request at once, whatever the service's queue does."""

import msgspec

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.plugins import ToolInfo
from yoi_daemon.model.strict_json import check_json
from yoi_daemon.plugins.delivery import Failure
from yoi_daemon.plugins.execution.interface import Returned
from yoi_daemon.plugins.supervision.service import Service

MAX_RESULT_BYTES = 1_048_576
"""What a tool may return, encoded; as much as a request may carry."""


def tools_of(service: Service) -> list[ToolInfo]:
    """Returns the tools that a plugin declares; none before it is loaded."""
    manifest = service.installed.manifest
    return [
        ToolInfo(service.plugin_id, tool.name, tool.description, tool.arguments, tool.result)
        for tool in (() if manifest is None else manifest.tools.values())
    ]


async def call_tool(service: Service, name: str, arguments: bytes) -> bytes:
    """Runs a tool at once and gives its result as JSON. Cancelled, the tool is cancelled.

    Raises `Refused`: `tool_not_found`, `service_unavailable`, `draining`, `invalid_request`, `limit_reached`,
    `tool_timeout`, `tool_failed`.
    """
    supervisor, settings = service.supervisor, service.installed.settings
    calls, executor = supervisor.calls, service.installed.executor
    if executor is None or calls is None:
        raise (
            supervisor.refusal()
            or service.refusal()
            or Refused(
                "service_unavailable",
                "the plugin is still being loaded",
                retry_after_s=1.0,
                state="ready",
            )
        )
    manifest = executor.manifest
    declared = manifest.tools.get(name)
    if declared is None:
        raise Refused("tool_not_found", f"plugin {service.plugin_id} has no tool {name}")
    needs_service = manifest.has_service and declared.needs_service
    if needs_service and service.lifecycle.state != "running":
        state = service.lifecycle.state
        raise Refused(
            "service_unavailable",
            f"tool {name} needs its plugin's service, which is {state}; start it, or wait",
            state=state,
        )
    limit = settings.tool_concurrency
    if calls.count(name) >= limit:
        raise Refused("limit_reached", f"{limit} calls of {name} run already", retry_after_s=1.0)
    try:
        check_json(arguments)
    except ValueError as error:
        raise Refused("invalid_request", f"the arguments do not fit: {error}") from error
    outcome = await calls.run(
        name,
        lambda call: executor.tool(call, name, arguments),
        is_bound=declared.needs_service,
        timeout_s=settings.tool_timeout_s,
        grace_s=settings.dispatch_grace_s,
    )
    if isinstance(outcome, Returned):
        outcome = _bounded(outcome)
    if isinstance(outcome, Returned):
        service.settlement.counters["tool_calls"] += 1
        return outcome.encoded
    raise _refusal_of(service, outcome)


def _refusal_of(service: Service, failure: Failure) -> Refused:
    """Records the failure of a tool, unless its caller is at fault; returns the refusal for that caller."""
    if failure.code == "invalid_arguments":
        return Refused("invalid_request", failure.message)
    service.settlement.counters["tool_failures"] += 1
    service.settlement.note_error(msgspec.structs.replace(failure, code=f"tool_{failure.code}"))
    if failure.outcome == "interrupted":
        return Refused("service_unavailable", failure.message, state=service.lifecycle.state)
    code = "tool_timeout" if failure.outcome == "dispatch_timeout" else "tool_failed"
    return Refused(code, failure.message, where=failure.where)


def _bounded(returned: Returned) -> Returned | Failure:
    size = len(returned.encoded)
    if size <= MAX_RESULT_BYTES:
        return returned
    message = f"the result is {size} bytes of JSON; a tool may return {MAX_RESULT_BYTES}"
    return Failure(outcome="handler_failed", code="result_too_large", message=message)
