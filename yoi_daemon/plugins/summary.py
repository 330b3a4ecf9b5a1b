"""A plugin as the API shows it."""

from typing import Any

import msgspec

from yoi_daemon.model.manifest import HookSource, IngressDeclaration, TimerSource
from yoi_daemon.model.plugins import IngressInfo, PluginRecord
from yoi_daemon.plugins.execution.interface import Returned
from yoi_daemon.plugins.supervision.service import Service

STATUS_CALL = "@plugin.status"
MAX_DETAIL_BYTES = 16_384
"""What `@plugin.status` may answer, encoded."""


def record_of(service: Service, detail: Any = None) -> PluginRecord:
    """Returns the plugin as the API shows it, with this `detail`."""
    lane = service.lane.statistics()
    life = service.lifecycle
    settings, manifest = service.installed.settings, service.installed.manifest
    return PluginRecord(
        plugin_id=service.plugin_id,
        state=life.state,
        since=life.since,
        reason=life.reason,
        restarts=service.supervisor.policy.restarts,
        retry_at=life.retry_at,
        queue_depth=lane.depth,
        queue_capacity=lane.capacity,
        queue_bytes=lane.bytes,
        queue_bytes_capacity=lane.bytes_capacity,
        oldest_waiting_s=lane.oldest_waiting_s,
        counters=dict(service.settlement.counters),
        dispatch=service.settlement.dispatch_times(),
        detail=detail,
        last_error=service.settlement.last_error,
        isolation=settings.isolation,
        critical=settings.critical,
        tools=() if manifest is None else tuple(manifest.tools),
        ingresses=()
        if manifest is None
        else tuple(_ingress_info(declaration) for declaration in manifest.ingresses.values()),
    )


def _ingress_info(declaration: IngressDeclaration) -> IngressInfo:
    source = declaration.source
    return IngressInfo(
        name=declaration.name,
        verify=source.verify if isinstance(source, HookSource) else None,
        every_s=source.period_s if isinstance(source, TimerSource) else None,
    )


async def ask_status(service: Service) -> Any:
    """Returns the author's answer to `@plugin.status`, or a diagnostic; None where there is none."""
    generation, calls = service.supervisor.current, service.supervisor.calls
    if generation is None or calls is None:
        return None
    executor = generation.executor
    if not executor.manifest.has_status:
        return None
    if calls.count(STATUS_CALL):
        return _diagnostic("status_hangs", "an earlier call of status has not returned")
    settings = service.installed.settings
    outcome = await calls.run(
        STATUS_CALL,
        executor.status,
        timeout_s=settings.status_timeout_s,
        grace_s=settings.dispatch_grace_s,
    )
    if not isinstance(outcome, Returned):
        return _diagnostic(f"status_{outcome.code}", outcome.message, outcome.where)
    if len(outcome.encoded) > MAX_DETAIL_BYTES:
        size = len(outcome.encoded)
        return _diagnostic(
            "status_too_large",
            f"status answered {size} bytes; at most {MAX_DETAIL_BYTES} are shown",
        )
    return msgspec.Raw(outcome.encoded)


def _diagnostic(code: str, message: str, where: str | None = None) -> dict[str, Any]:
    return {"diagnostic": {"code": code, "message": message, "where": where}}
