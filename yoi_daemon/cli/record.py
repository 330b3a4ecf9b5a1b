"""One plugin's record, for a person."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from yoi_daemon.cli.output import duration, size, write_record
from yoi_daemon.cli.views import (
    Answer,
    DiagnosticView,
    DispatchTimesView,
    IngressView,
    LastErrorView,
    PluginView,
    view,
)


def write_plugin(answer: Answer) -> None:
    """The record, one field a line; what a later version tells besides, as it came."""
    told = view(answer, PluginView)
    known = set(told.__struct_fields__)
    write_record(
        {
            "plugin_id": told.plugin_id,
            "state": told.state,
            "since": told.since,
            "reason": None if told.reason is None else str(told.reason),
            "restarts": told.restarts,
            "retry_at": told.retry_at,
            "critical": told.critical,
            "isolation": told.isolation,
            "queue": _queue(told),
            "oldest_waiting": (
                None if told.oldest_waiting_s is None else duration(told.oldest_waiting_s)
            ),
            "last_error": None if told.last_error is None else _error(told.last_error),
            "dispatch": _times(told.dispatch),
            "counters": _counters(told.counters),
            "ingresses": ", ".join(map(_ingress, told.ingresses)) or None,
            "tools": ", ".join(told.tools) or None,
            "detail": _detail(told.detail),
            **{name: value for name, value in answer.items() if name not in known},
        }
    )


def _queue(told: PluginView) -> str:
    if told.queue_bytes is None or told.queue_bytes_capacity is None:
        return f"{told.queue} events"
    return f"{told.queue} events, {size(told.queue_bytes)} of {size(told.queue_bytes_capacity)}"


def _error(error: LastErrorView) -> str:
    event = "" if error.event_id is None else f", event {error.event_id}"
    return f"{error}{event}, {error.time}"


def _times(times: DispatchTimesView) -> str | None:
    if not times.count:
        return None
    return (
        f"half within {times.p50_ms:g} ms, 99 % within {times.p99_ms:g} ms, longest {times.max_ms:g} ms"
        f" (of the latest {times.count})"
    )


def _counters(counters: Mapping[str, int]) -> str | None:
    return ", ".join(f"{name} {count}" for name, count in counters.items()) or None


def _ingress(ingress: IngressView) -> str:
    if ingress.every_s is not None:
        return f"{ingress.name} (every {duration(ingress.every_s)})"
    return ingress.name if ingress.verify is None else f"{ingress.name} (webhook, {ingress.verify})"


class _Diagnosed(msgspec.Struct):
    """What stands in place of `detail` where the plugin's status gave none."""

    diagnostic: DiagnosticView


def _detail(detail: Any) -> Any:
    if not isinstance(detail, dict) or cast("dict[str, Any]", detail).keys() != {"diagnostic"}:
        return cast("Any", detail)
    try:
        found = msgspec.convert(detail, _Diagnosed).diagnostic
    except msgspec.ValidationError:
        return cast("Any", detail)  # the plugin's own
    place = "" if found.where is None else f", at {found.where}"
    return f"none ({found.code}: {found.message}{place})"
