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
    shown = view(answer, PluginView)
    known = set(shown.__struct_fields__)
    write_record(
        {
            "plugin_id": shown.plugin_id,
            "state": shown.state,
            "since": shown.since,
            "reason": None if shown.reason is None else str(shown.reason),
            "restarts": shown.restarts,
            "retry_at": shown.retry_at,
            "critical": shown.critical,
            "isolation": shown.isolation,
            "queue": _queue(shown),
            "oldest_waiting": (
                None if shown.oldest_waiting_s is None else duration(shown.oldest_waiting_s)
            ),
            "last_error": None if shown.last_error is None else _error(shown.last_error),
            "dispatch": _times(shown.dispatch),
            "counters": _counters(shown.counters),
            "ingresses": ", ".join(map(_ingress, shown.ingresses)) or None,
            "tools": ", ".join(shown.tools) or None,
            "detail": _detail(shown.detail),
            **{name: value for name, value in answer.items() if name not in known},
        }
    )


def _queue(shown: PluginView) -> str:
    if shown.queue_bytes is None or shown.queue_bytes_capacity is None:
        return f"{shown.queue} events"
    return f"{shown.queue} events, {size(shown.queue_bytes)} of {size(shown.queue_bytes_capacity)}"


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
