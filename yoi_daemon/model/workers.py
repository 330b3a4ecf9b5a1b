"""Public shapes of workers and runtimes: what leaves the house, and nothing else can."""

from typing import Literal

import msgspec

from yoi_daemon.model.events import Reason
from yoi_daemon.model.states import WorkerState

ImplementationKind = Literal["embedded", "remote", "local_compat"]
RuntimeStatus = Literal["available", "draining", "unavailable"]
Severity = Literal["info", "warning", "error"]
Role = Literal["user", "assistant", "system"]
WhenBusy = Literal["reject", "queue", "interrupt"]

BUILTIN_ECHO = "builtin:echo"
"""The profile that every daemon has."""
MAX_WORKER_LABEL_CHARS = 200

DEFAULT_PAGE_ITEMS = 100
MAX_PAGE_ITEMS = 256
MAX_PAGE_BYTES = 262_144
"""A transcript page: 100 items unless asked, at most 256, and at most 256 KiB of text."""

MAX_GRACE_S = 20.0
"""The longest grace of a stop, so that its answer comes within a client's 30 s for a request."""


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an operator should know about a part of the daemon."""

    code: str
    severity: Severity
    message: str
    since: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime can do; each flag is a fact a test holds against the call."""

    create: bool
    input: bool
    cancel: bool
    stop: bool
    transcript: bool
    events: bool


class RuntimeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime as the API shows it."""

    runtime_id: str
    display_name: str
    implementation_kind: ImplementationKind
    status: RuntimeStatus
    capabilities: Capabilities
    diagnostics: tuple[Diagnostic, ...] = ()


class WorkerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the API shows it. `generation` counts its turns."""

    runtime_id: str
    worker_id: str
    implementation_kind: ImplementationKind
    label: str
    profile: str
    state: WorkerState
    generation: int
    created_at: str
    reason: Reason | None = None


class TranscriptItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item; `text` may be cut at a character, then `truncated`; `full_bytes` counts UTF-8."""

    item_id: str
    role: Role
    text: str
    time: str
    truncated: bool
    full_bytes: int


class TranscriptPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bounded page of a transcript, true at the cursor `as_of`.

    `before` and `after` are item ids to ask for the items before and after this page; each is
    absent where there are none. `let_go` counts the oldest items that the transcript no longer has.
    """

    items: tuple[TranscriptItem, ...]
    as_of: str
    before: str | None = None
    after: str | None = None
    let_go: int = 0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a mutation of a worker: the worker, and the cursor at which it became visible."""

    worker: WorkerSummary
    cursor: str


def cut_text(text: str, max_bytes: int) -> tuple[str, int]:
    """`text` cut to at most `max_bytes` of UTF-8 at a character boundary, and its full size in bytes."""
    encoded = text.encode("utf-8")
    if len(encoded) <= max_bytes:
        return text, len(encoded)
    return encoded[:max_bytes].decode("utf-8", "ignore"), len(encoded)
