"""What each error means to a shell: its exit code, and what to tell the person who typed."""

from collections.abc import Mapping
from typing import Any, cast

from yoi_daemon.model.errors import (
    Code,
    ConfigurationError,
    NotAllowed,
    Refused,
    StorageFailed,
    Unreachable,
    YoiError,
)

REFUSED = 1
USAGE = 2
UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h, as the others from 64 on
STORAGE = 74  # EX_IOERR
NOT_ALLOWED = 77  # EX_NOPERM
CONFIGURATION = 78  # EX_CONFIG
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it

_NOT_ALLOWED_CODES: frozenset[Code] = frozenset({"unauthenticated", "forbidden"})

_ADVICE: Mapping[Code, str] = {
    "unauthenticated": "use this daemon's own token: --state DIR finds it, --token-file names it",
    "forbidden": "--url URL --token-file FILE uses another token",
    "route_not_found": "use the yoi-daemon command of the daemon's own version",
    "plugin_not_found": "'yoi-daemon plugin list' shows the plugins",
    "ingress_not_found": "'yoi-daemon plugin show PLUGIN' shows its ingresses",
    "tool_not_found": "'yoi-daemon tool --list' shows the tools and what they take",
    "event_not_found": "'yoi-daemon dead list PLUGIN' shows what can be named",
    "token_not_found": "'yoi-daemon token list' shows the tokens",
    "runtime_not_found": "'yoi-daemon status' shows the runtimes",
    "worker_not_found": "'yoi-daemon worker list' shows the workers",
    "worker_gone": "'yoi-daemon worker list' shows those there are, 'worker create' makes one",
    "delivery_id_conflict": "give another --key, or the payload that had this one first",
    "payload_too_large": "send less, or raise event_bytes in [plugins.PLUGIN]",
    "cursor_expired": "begin again with --from earliest",
    "cursor_unknown": "begin again with --from earliest",
    "service_failed": (
        "'yoi-daemon plugin show PLUGIN' shows more; when it is corrected, "
        "'yoi-daemon plugin reload PLUGIN' or 'plugin start PLUGIN'"
    ),
    "service_unavailable": "'yoi-daemon plugin show PLUGIN' shows the reason",
    "tool_failed": "correct the plugin, then 'yoi-daemon plugin reload PLUGIN'",
    "tool_timeout": "see what it waits for, or raise tool_timeout_s in [plugins.PLUGIN]",
    "draining": "the daemon is stopping; try again when it has started",
    "safe_mode": "'yoi-daemon status' says why it started without plugins",
    "storage_low": "free space where the daemon keeps its state",
}
"""What to do, where the daemon's own sentence does not say it."""


class ExtraMissing(YoiError):
    """An optional part is not installed; the message has the command that installs it."""


def exit_code(error: YoiError) -> int:
    """Returns the process's exit code for an error that ended a command."""
    match error:
        case ConfigurationError() | ExtraMissing():
            return CONFIGURATION
        case NotAllowed():
            return NOT_ALLOWED
        case StorageFailed():
            return STORAGE
        case Unreachable():
            return UNREACHABLE
        case Refused():
            return NOT_ALLOWED if error.code in _NOT_ALLOWED_CODES else REFUSED
        case _:
            return REFUSED


def explain(error: YoiError) -> str:
    """Returns the error for a person: what happened, and what to do next."""
    if not isinstance(error, Refused):
        return str(error)
    lines = [str(error)]
    if where := error.fields.get("where"):
        lines.append(f"at {where}")
    faults = error.fields.get("faults")
    if isinstance(faults, list | tuple):
        lines += map(str, cast("list[Any]", faults))
    if error.retry_after_s is not None:
        lines.append(f"try again in {error.retry_after_s:g} s")
    elif advice := _ADVICE.get(error.code):
        lines.append(advice)
    return "\n  ".join(lines)


def facts(error: YoiError) -> dict[str, Any]:
    """Returns the error for a program: `message` and `exit_code`, and what its kind adds."""
    known: dict[str, Any] = {"exit_code": exit_code(error), "message": str(error)}
    match error:
        case Refused():
            known.update(error.fields)
            known.update(code=error.code, message=error.detail)
            if error.retry_after_s is not None:
                known["retry_after_s"] = error.retry_after_s
        case ConfigurationError():
            known["faults"] = [
                {"file": f.file, "line": f.line, "key": f.key, "expected": f.expected}
                for f in error.faults
            ]
        case _:
            pass
    return known
