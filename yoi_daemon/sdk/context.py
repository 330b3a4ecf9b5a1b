"""What a handler is given: its context, and the event it handles."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from yoi_daemon.cancellation import CallClosedError
from yoi_daemon.model.workers import Receipt, TranscriptPage, WhenBusy
from yoi_daemon.sdk.config import Config

if TYPE_CHECKING:
    # Defaults let authors write a bare `Context` and `IngressEvent`; at run time nobody asks for them.
    from typing_extensions import TypeVar as TypeVarWithDefault

    C_co = TypeVarWithDefault("C_co", bound=Config, default=Config, covariant=True)
    P = TypeVarWithDefault("P", default=Any)
else:
    C_co = TypeVar("C_co", bound=Config, covariant=True)
    P = TypeVar("P")

T = TypeVar("T")


class Retry(Exception):
    """Raised by a handler: try this event again, after `after_s` seconds or the host's own back-off."""

    def __init__(self, reason: str = "", *, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class NotReady(Exception):
    """Raised by `start`: what the plugin needs is not there yet. It is started again, and no restart is spent.

    It is tried after `after_s` seconds (0.1 to 3600), or by the host's own back-off. Meanwhile the service is
    `starting` and its queue accepts events.
    """

    def __init__(self, reason: str = "", *, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class AttemptClosedError(CallClosedError):
    """The attempt was judged already (its deadline passed, its service stopped): its effects are refused."""


class IngressEvent(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """One event a service is fed.

    `id` sorts by time; `source` is `api`, `hook`, `timer` or `redelivery`; `created_at` is RFC 3339 in UTC;
    `attempt` counts from 1. For webhooks `headers` are the declared ones in lower case and `body`
    the exact bytes; else both are empty.
    """

    id: str
    source: str
    ingress: str
    payload: P
    created_at: str
    attempt: int
    correlation_id: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Workers(Protocol):
    """Commands to the embedded runtime's workers. Needs a grant: `workers:command`, or `workers:read` to read.

    Every call raises `Refused` with a stable `code`: `forbidden` without the grant.
    """

    async def create(
        self, *, profile: str = "builtin:echo", label: str = "", input: str | None = None
    ) -> Receipt:
        """Makes a worker, and sends it `input` where given."""
        ...

    async def send(self, worker_id: str, text: str, *, when_busy: WhenBusy = "queue") -> Receipt:
        """Sends a worker an input; it becomes a turn."""
        ...

    async def transcript(self, worker_id: str, *, limit: int = 100) -> TranscriptPage:
        """Returns the latest items of a worker."""
        ...


class State(Protocol):
    """A plugin's own small key-value state: JSON values up to 64 KiB, 1 MiB in all.

    It outlives restarts, of the service and of the daemon: a write is on the disk when it returns (with
    `store.kind = "memory"` it is lost with the process). Writes raise `AttemptClosedError` when the call was judged
    already, and `Refused` for a value that is not JSON or too large.
    """

    async def get(self, key: str) -> Any:
        """Returns the value of `key`; None where there is none."""
        ...

    async def set(self, key: str, value: Any) -> None:
        """Keeps `value` under `key`."""
        ...

    async def delete(self, key: str) -> None:
        """Lets go of `key`, where it is there."""
        ...

    async def keys(self) -> list[str]:
        """Returns the keys there are, sorted."""
        ...


class Context(Protocol, Generic[C_co]):
    """What the host gives a plugin's functions. One for each call: when the call was judged, it is closed."""

    @property
    def config(self) -> C_co:
        """Returns the author's settings, decoded."""
        ...

    @property
    def local(self) -> Any:
        """Returns a namespace for the author's own objects, from `start` to `stop`."""
        ...

    @property
    def log(self) -> FilteringBoundLogger:
        """Returns a logger with the plugin's and the event's ids bound."""
        ...

    @property
    def state(self) -> State:
        """Returns the plugin's own small key-value state."""
        ...

    @property
    def workers(self) -> Workers:
        """Commands to workers, as granted in the configuration."""
        ...

    async def emit(self, kind: str, data: Any = None) -> None:
        """Emits the observation event `<plugin_id>.<kind>` with JSON `data` of at most 256 KiB.

        Waits while too much is uncommitted. Raises `AttemptClosedError` when the call was judged
        already, and `Refused` for data that is not JSON or too large.
        """
        ...

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enters a resource that the host closes after `stop`, in reverse order. Only within `start`."""
        ...
