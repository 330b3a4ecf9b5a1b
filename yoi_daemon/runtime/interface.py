"""What a runtime is, whichever implementation: something that runs workers."""

from typing import Protocol

import msgspec

from yoi_daemon.model.workers import (
    Receipt,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)

DEFAULT_PAGE_ITEMS = 100
MAX_PAGE_ITEMS = 256
MAX_PAGE_BYTES = 262_144
"""A transcript page: 100 items unless asked, at most 256, and at most 256 KiB of text."""


class WorkerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Workers in the order they were made; `next` is where the following page begins, if there is one."""

    items: tuple[WorkerSummary, ...]
    next: str | None = None


class Runtime(Protocol):
    """Runs workers. Every method takes and gives public types only; refusals are `Refused`."""

    def summary(self) -> RuntimeSummary:
        """What it is, how it is, and what it can do."""
        ...

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        """Up to `limit` workers made after the worker `after`."""
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
