"""What a runtime is, whichever implementation: something that runs workers."""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from yoi_daemon.model.events import ObservationEvent
from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    Capabilities,
    Receipt,
    RuntimeStatus,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)


class WorkerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Workers by id, which is the order they were made where the runtime makes the ids itself.

    `next` is where the following page begins, if there is one.
    """

    items: tuple[WorkerSummary, ...]
    next: str | None = None


class Runtime(Protocol):
    """Runs workers. Every method takes and gives public types only; refusals are `Refused`.

    Each may raise `runtime_unavailable` and `runtime_timeout`, and `unsupported_operation` exactly where
    the flag of `capabilities` is false.
    """

    def status(self) -> RuntimeStatus:
        """How it is, as far as is known now."""
        ...

    def capabilities(self) -> Capabilities:
        """What it can do: one flag for each command, and each a fact."""
        ...

    def summary(self) -> RuntimeSummary:
        """What it is, how it is, what it can do, and what an operator should know."""
        ...

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        """Up to `limit` workers whose ids follow `after`."""
        ...

    async def worker(self, worker_id: str) -> WorkerSummary:
        """One worker. Raises `worker_not_found`."""
        ...

    async def create(
        self,
        *,
        profile: str,
        label: str,
        input: str | None = None,
        correlation_id: str | None = None,
    ) -> Receipt:
        """Makes a worker, and sends it `input` where given; returns when that is committed.

        Raises `profile_not_found`, `limit_reached`, `payload_too_large`, `draining`. Cancelled, it may
        have been made.
        """
        ...

    async def send(
        self,
        worker_id: str,
        text: str,
        *,
        when_busy: WhenBusy = "reject",
        correlation_id: str | None = None,
    ) -> Receipt:
        """Puts an input into the worker's inbox; returns when that is committed.

        Raises `worker_not_found`, `worker_gone`, `worker_busy`, `limit_reached`, `payload_too_large`.
        """
        ...

    async def cancel(self, worker_id: str) -> Receipt:
        """Ends the worker's turn, and returns when that is committed; the worker goes on.

        What the turn writes from the call on is refused. An engine that does not answer is given up after
        `[runtime] cancel_grace_s`. Cancelled, the turn ends all the same. Raises `worker_not_found`,
        `worker_gone`, and `invalid_state` where no turn runs.
        """
        ...

    async def stop(self, worker_id: str, *, grace_s: float | None = None) -> Receipt:
        """Ends the worker, and returns when that is committed: always, and in a terminal state.

        Its turn is cancelled at once and given up after `grace_s` seconds (0 to `MAX_GRACE_S`). Cancelled,
        the worker ends all the same. Raises `worker_not_found`, `worker_gone`.
        """
        ...

    def events(self, cursor: str) -> AsyncIterator[ObservationEvent]:
        """The runtime's committed events after `cursor`, in order and without end.

        Raises, at once or from the iterator, `cursor_expired` and `cursor_unknown`; never skips.
        """
        ...

    async def transcript(
        self,
        worker_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = DEFAULT_PAGE_ITEMS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> TranscriptPage:
        """A page of the transcript: the latest items, or those next to an item id.

        Raises `worker_not_found`, and `invalid_request` for an item id it does not have.
        """
        ...
