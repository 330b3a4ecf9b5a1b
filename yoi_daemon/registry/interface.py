"""The interface of a runtime, whichever implementation: something that runs workers."""

from typing import Protocol

from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    Capabilities,
    Receipt,
    RuntimeStatus,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerPage,
    WorkerSummary,
)


class Runtime(Protocol):
    """Runs workers. Parameters and results are public types only; refusals are `Refused`.

    Each asynchronous method may raise `runtime_unavailable` and `runtime_timeout`, and raises
    `unsupported_operation` exactly if its flag of `capabilities` is false.

    The methods named `…_now` are synchronous and never refuse: they return what is known without
    asking. What several of them return before the next checkpoint is true together, at the log's
    `appended` position.
    """

    def status(self) -> RuntimeStatus:
        """Returns the status as known now."""
        ...

    def capabilities(self) -> Capabilities:
        """Returns the supported operations. With `events`, each change of a worker is in the daemon's log."""
        ...

    def summary(self) -> RuntimeSummary:
        """Returns the runtime as the API shows it, with diagnostics for operators."""
        ...

    def workers_now(self, *, limit: int = 100) -> WorkerPage:
        """Returns the first `limit` workers as known now."""
        ...

    def worker_now(self, worker_id: str) -> WorkerSummary | None:
        """Returns one worker as known now, or None if it is not known."""
        ...

    def transcript_now(self, worker_id: str) -> TranscriptPage | None:
        """Returns the latest transcript page as known now, or None if it is not known.

        At most `DEFAULT_PAGE_ITEMS` items and `SNAPSHOT_PAGE_BYTES` of text. Its `as_of` may not be
        committed yet: wait for that before showing it.
        """
        ...

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        """Returns up to `limit` workers whose ids follow `after`."""
        ...

    async def worker(self, worker_id: str) -> WorkerSummary:
        """Returns one worker, which is known from then on. Raises `worker_not_found`."""
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
        """Returns a page of the transcript: the latest items, or those next to an item id.

        Raises `worker_not_found`, and `invalid_request` for an unknown item id.
        """
        ...

    async def create(
        self,
        *,
        profile: str,
        label: str,
        input: str | None = None,
        correlation_id: str | None = None,
    ) -> Receipt:
        """Creates a worker, sends it `input` if given, and returns when both are committed.

        Raises `profile_not_found`, `limit_reached`, `payload_too_large`, `draining`. If cancelled, the
        worker may have been created.
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
        """Cancels the worker's turn and returns when its end is committed; the worker stays.

        The turn's writes are refused from the call on. An engine that does not end is given up after
        `[runtime] cancel_grace_s`. Cancelling the call does not keep the turn alive. Raises
        `worker_not_found`, `worker_gone`, and `invalid_state` if no turn runs.
        """
        ...

    async def stop(self, worker_id: str, *, grace_s: float | None = None) -> Receipt:
        """Stops the worker and returns when its terminal state is committed.

        Its turn is cancelled at once and given up after `grace_s` seconds (0 to `MAX_GRACE_S`).
        Cancelling the call does not keep the worker alive. Raises `worker_not_found`, `worker_gone`.
        """
        ...


class ConfiguredRuntime(Runtime, Protocol):
    """A runtime that the configuration names. The registry runs every kind of it the same way."""

    async def refresh(self) -> None:
        """Updates once what is known. Bounded in time; a failure shows in status and diagnostics."""
        ...

    async def run(self) -> None:
        """Keeps what is known up to date until cancelled."""
        ...
