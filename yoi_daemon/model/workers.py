"""Public shapes of workers and runtimes. They cannot hold a path, a locator or a secret."""

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
SNAPSHOT_PAGE_BYTES = 65_536
"""Maximum text of the transcript page in a snapshot."""

MAX_GRACE_S = 20.0
"""The longest grace of a stop, so that its answer comes within a client's 30 s for a request."""


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """A finding about a part of the daemon, for operators."""

    code: str
    severity: Severity
    message: str
    since: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The operations that a runtime supports; tests compare each flag with the call."""

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


class WorkerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Workers in the order of their ids; the embedded runtime's ids sort by creation time.

    `next` is the `after` of the next page, None on the last one.
    """

    items: tuple[WorkerSummary, ...]
    next: str | None = None


class TranscriptItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item. If `truncated`, `text` was cut at a character; `full_bytes` counts UTF-8."""

    item_id: str
    role: Role
    text: str
    time: str
    truncated: bool
    full_bytes: int


class TranscriptPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bounded page of a transcript, true at the cursor `as_of`.

    `before` and `after` are item ids for requesting the adjacent pages; each is absent if there is
    none. `let_go` counts the oldest items that were evicted from the transcript.
    """

    items: tuple[TranscriptItem, ...]
    as_of: str
    before: str | None = None
    after: str | None = None
    let_go: int = 0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The response to a mutation of a worker: the worker, and the cursor at which it became visible."""

    worker: WorkerSummary
    cursor: str


def cut_text(text: str, max_bytes: int) -> tuple[str, int]:
    """Returns `text` cut to at most `max_bytes` of UTF-8 at a character boundary, and its full size in bytes."""
    encoded = text.encode("utf-8")
    if len(encoded) <= max_bytes:
        return text, len(encoded)
    return encoded[:max_bytes].decode("utf-8", "ignore"), len(encoded)
