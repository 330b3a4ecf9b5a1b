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
    """A code over HTTP: its `status`, one sentence, and if the same request may succeed later."""

    status: int
    meaning: str
    retryable: bool = False


CODES: Mapping[Code, CodeInfo] = {
    "invalid_request": CodeInfo(
        400, "The request cannot be read, or a part of it does not fit. `detail` says which."
    ),
    "unauthenticated": CodeInfo(
        401, "The token or the signature is missing, wrong, revoked or expired."
    ),
    "forbidden": CodeInfo(403, "The token is good and does not have the scope that this needs."),
    "host_not_allowed": CodeInfo(
        403, "The `Host` header is no name of this daemon. Add it to `hosts` if it should be."
    ),
    "origin_not_allowed": CodeInfo(
        403, "The web page that asks is of an origin that is not configured."
    ),
    "route_not_found": CodeInfo(404, "There is nothing at this path."),
    "plugin_not_found": CodeInfo(404, "There is no plugin of this id, or it is not enabled."),
    "ingress_not_found": CodeInfo(
        404, "The plugin has no ingress of this name, or none that takes webhooks."
    ),
    "tool_not_found": CodeInfo(404, "The plugin has no tool of this name."),
    "runtime_not_found": CodeInfo(404, "There is no runtime of this id."),
    "worker_not_found": CodeInfo(404, "The runtime has no worker of this id."),
    "event_not_found": CodeInfo(404, "The plugin has no dead letter of this id."),
    "token_not_found": CodeInfo(404, "There is no token of this id."),
    "method_not_allowed": CodeInfo(
        405, "The path exists and has other methods. The header `Allow` lists them."
    ),
    "request_timeout": CodeInfo(
        408, "The request or its body did not arrive in time.", retryable=True
    ),
    "worker_busy": CodeInfo(
        409,
        "The worker runs a turn. Send again later, or with another `when_busy`.",
        retryable=True,
    ),
    "invalid_state": CodeInfo(
        409, "The command does not apply to the state the thing is in. `detail` says which."
    ),
    "delivery_id_conflict": CodeInfo(
        409, "The idempotency key was used before, with another body."
    ),
    "worker_gone": CodeInfo(410, "The worker has ended. The answer holds its final state."),
    "cursor_expired": CodeInfo(
        410, "Events after this cursor are gone. `reason` is `evicted` or `epoch_changed`."
    ),
    "payload_too_large": CodeInfo(413, "The body or the event is larger than its limit."),
    "unsupported_media_type": CodeInfo(415, "The `Content-Type` is not the one this route takes."),
    "invalid_event": CodeInfo(
        422, "The event does not decode into the type that its ingress declares."
    ),
    "cursor_unknown": CodeInfo(
        422,
        "The cursor was never given by this log. `reason` is `malformed`, `foreign_epoch` or `future`.",
    ),
    "profile_not_found": CodeInfo(
        422, "There is no profile of this name. The answer lists the names."
    ),
    "queue_full": CodeInfo(
        429, "The plugin's queue has no room. Send again after `retry_after_s`.", retryable=True
    ),
    "rate_limited": CodeInfo(
        429,
        "There were too many requests of this kind. Send again after `retry_after_s`.",
        retryable=True,
    ),
    "limit_reached": CodeInfo(
        429,
        "A limit on the number of objects is reached, for example of workers or of waiting inputs.",
        retryable=True,
    ),
    "headers_too_large": CodeInfo(431, "The head of the request is larger than 16 KiB."),
    "internal": CodeInfo(
        500, "The daemon has a fault. Its log has the details under `request_id`."
    ),
    "unsupported_operation": CodeInfo(501, "The runtime cannot do this, see its `capabilities`."),
    "tool_failed": CodeInfo(
        502, "The tool raised an exception, or its result does not fit its type."
    ),
    "runtime_error": CodeInfo(502, "The runtime answered with an error."),
    "service_unavailable": CodeInfo(
        503,
        "The plugin's service is not running now, for example because it is stopped.",
        retryable=True,
    ),
    "service_failed": CodeInfo(
        503,
        "The plugin failed and does not accept events. `yoi-daemon plugin show` says why.",
        retryable=True,
    ),
    "runtime_unavailable": CodeInfo(503, "The runtime cannot be reached now.", retryable=True),
    "draining": CodeInfo(503, "The daemon is stopping.", retryable=True),
    "safe_mode": CodeInfo(503, "The daemon started without plugins.", retryable=True),
    "dispatch_timeout": CodeInfo(
        504, "The handler did not finish within its deadline.", retryable=True
    ),
    "tool_timeout": CodeInfo(504, "The tool did not answer within its deadline.", retryable=True),
    "runtime_timeout": CodeInfo(
        504, "The runtime did not answer within its deadline.", retryable=True
    ),
    "storage_low": CodeInfo(
        507,
        "The disk is nearly full. Nothing new is accepted until there is space.",
        retryable=True,
    ),
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
        """Returns the HTTP status of `code`."""
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
