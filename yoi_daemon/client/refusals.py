"""The daemon's errors as they arrive, made into the errors they were."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from yoi_daemon.model.errors import CODES, Code, Refused

_ENVELOPE = {"type", "title", "status", "detail", "code", "retryable", "retry_after_s"}
_BY_STATUS: Mapping[int, Code] = {
    401: "unauthenticated",
    403: "forbidden",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "invalid_state",
    410: "cursor_expired",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_event",
    429: "rate_limited",
    431: "headers_too_large",
    501: "unsupported_operation",
    502: "runtime_error",
    503: "service_unavailable",
    504: "runtime_timeout",
    507: "storage_low",
}


class Problem(msgspec.Struct, kw_only=True):
    """What is read of a problem+json answer by name; the rest travels in `Refused.fields`."""

    code: str
    detail: str = ""
    title: str = ""
    retry_after_s: float | None = None


def refused_from_problem(status: int, body: bytes) -> Refused | None:
    """Returns the `Refused` the daemon raised, or None when `body` is not a problem the daemon wrote.

    A code this version does not know becomes the nearest known one by `status`, and keeps its name
    as the field `unknown_code`.
    """
    try:
        problem = msgspec.json.decode(body, type=Problem)
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return make_refused(
        problem.code,
        problem.detail or problem.title,
        status=status,
        retry_after_s=problem.retry_after_s,
        fields={name: value for name, value in fields.items() if name not in _ENVELOPE},
    )


def make_refused(
    code: str,
    detail: str,
    *,
    status: int,
    retry_after_s: float | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Refused:
    """Returns a `Refused` with a code that came over the network, which may be one of a later version."""
    known, extra = known_code(code, status)
    refused = Refused(known, detail or f"the daemon gave no reason (HTTP {status})")
    refused.retry_after_s = retry_after_s
    # Not as keywords: a field named `detail` or `code` must not be able to break the call.
    refused.fields.update(fields or {}, **extra)
    return refused


def known_code(code: str, status: int) -> tuple[Code, dict[str, str]]:
    """`code` if this version knows it, else the nearest by HTTP status and `unknown_code`."""
    if code in CODES:
        return cast("Code", code), {}
    fallback: Code = "internal" if status >= 500 else "invalid_request"
    return _BY_STATUS.get(status, fallback), {"unknown_code": code}
