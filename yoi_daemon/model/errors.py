"""The errors of the daemon, and the HTTP status of each code."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

Code = Literal[
    "invalid_request",
    "unauthenticated",
    "forbidden",
    "host_not_allowed",
    "origin_not_allowed",
    "route_not_found",
    "plugin_not_found",
    "ingress_not_found",
    "tool_not_found",
    "runtime_not_found",
    "worker_not_found",
    "event_not_found",
    "token_not_found",
    "method_not_allowed",
    "request_timeout",
    "worker_busy",
    "invalid_state",
    "delivery_id_conflict",
    "worker_gone",
    "cursor_expired",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_event",
    "cursor_unknown",
    "profile_not_found",
    "queue_full",
    "rate_limited",
    "limit_reached",
    "headers_too_large",
    "internal",
    "tool_failed",
    "runtime_error",
    "unsupported_operation",
    "service_unavailable",
    "service_failed",
    "runtime_unavailable",
    "draining",
    "safe_mode",
    "dispatch_timeout",
    "tool_timeout",
    "runtime_timeout",
    "storage_low",
]


class CodeInfo(msgspec.Struct, frozen=True):
    """A code over HTTP: its `status`; `retryable` if the same request may succeed later."""

    status: int
    retryable: bool = False


CODES: Mapping[Code, CodeInfo] = {
    "invalid_request": CodeInfo(400),
    "unauthenticated": CodeInfo(401),
    "forbidden": CodeInfo(403),
    "host_not_allowed": CodeInfo(403),
    "origin_not_allowed": CodeInfo(403),
    "route_not_found": CodeInfo(404),
    "plugin_not_found": CodeInfo(404),
    "ingress_not_found": CodeInfo(404),
    "tool_not_found": CodeInfo(404),
    "runtime_not_found": CodeInfo(404),
    "worker_not_found": CodeInfo(404),
    "event_not_found": CodeInfo(404),
    "token_not_found": CodeInfo(404),
    "method_not_allowed": CodeInfo(405),
    "request_timeout": CodeInfo(408, retryable=True),
    "worker_busy": CodeInfo(409, retryable=True),
    "invalid_state": CodeInfo(409),
    "delivery_id_conflict": CodeInfo(409),
    "worker_gone": CodeInfo(410),
    "cursor_expired": CodeInfo(410),
    "payload_too_large": CodeInfo(413),
    "unsupported_media_type": CodeInfo(415),
    "invalid_event": CodeInfo(422),
    "cursor_unknown": CodeInfo(422),
    "profile_not_found": CodeInfo(422),
    "queue_full": CodeInfo(429, retryable=True),
    "rate_limited": CodeInfo(429, retryable=True),
    "limit_reached": CodeInfo(429, retryable=True),
    "headers_too_large": CodeInfo(431),
    "internal": CodeInfo(500),
    "unsupported_operation": CodeInfo(501),
    "tool_failed": CodeInfo(502),
    "runtime_error": CodeInfo(502),
    "service_unavailable": CodeInfo(503, retryable=True),
    "service_failed": CodeInfo(503, retryable=True),
    "runtime_unavailable": CodeInfo(503, retryable=True),
    "draining": CodeInfo(503, retryable=True),
    "safe_mode": CodeInfo(503, retryable=True),
    "dispatch_timeout": CodeInfo(504, retryable=True),
    "tool_timeout": CodeInfo(504, retryable=True),
    "runtime_timeout": CodeInfo(504, retryable=True),
    "storage_low": CodeInfo(507, retryable=True),
}

assert set(CODES) == set(get_args(Code)), "every code has its row"


class YoiError(Exception):
    """The root of every error that this package raises on purpose."""


class Refused(YoiError):
    """A request that the daemon refuses, by the caller's fault or its own state.

    `code` is stable, for programs; `detail` is one sentence for a person and says what to do;
    `retry_after_s` is in seconds; `fields` are further public facts, such as the queue's depth.
    None of them may hold a secret.
    """

    def __init__(
        self, code: Code, detail: str, *, retry_after_s: float | None = None, **fields: Any
    ) -> None:
        super().__init__(code, detail)
        self.code: Code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.fields: dict[str, Any] = fields

    @property
    def status(self) -> int:
        """The HTTP status of `code`."""
        return CODES[self.code].status

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class ConfigFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fault of the configuration. It never contains the value."""

    file: str
    key: str
    expected: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.key}: {self.expected}" if self.key else f"{where}: {self.expected}"


class ConfigurationError(YoiError):
    """The configuration cannot be used; `faults` are all faults found, not just the first."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__(*faults)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class NotAllowed(YoiError):
    """The operating system refused something that the daemon needs; the message says what to change."""


class StorageFailed(YoiError):
    """A commit failed. It is never retried: the process ends, and a restart recovers."""


class Unreachable(YoiError):
    """No daemon answers at the client's address; the message says which, and what to do."""
