"""The interface of an engine: it runs one turn of a conversation, and may stream, fail or hang."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from yoi_daemon.cancellation import CallClosedError
from yoi_daemon.model.workers import Role
from yoi_daemon.runtime.transcript import Item


class ItemWriter(Protocol):
    """Writes one item part by part."""

    async def write(self, text: str) -> None:
        """Appends to the item's text, which subscribers see soon. Waits while too much is uncommitted.

        Raises `TurnClosedError` if the turn has ended, and `Refused` (`payload_too_large`) for an
        item larger than a transcript.
        """
        ...


class Turn(Protocol):
    """One turn as its engine sees it. Once the turn has ended, writes are refused."""

    @property
    def input(self) -> str:
        """Returns the input of this turn; it is the last item of `history`."""
        ...

    @property
    def history(self) -> Sequence[Item]:
        """Returns the transcript without evicted items, oldest first."""
        ...

    async def append(self, role: Role, text: str) -> None:
        """Adds an item to the transcript. Waits while too much is uncommitted.

        Raises `TurnClosedError` if the turn has ended.
        """
        ...

    def stream(self, role: Role) -> AbstractAsyncContextManager[ItemWriter]:
        """Opens an item that is written part by part, and added to the transcript when the context ends.

        Subscribers see the parts as `worker.delta`. If the context ends by an exception, nothing is added.
        """
        ...


class TurnClosedError(CallClosedError):
    """The turn was cancelled or has ended: its writes are refused."""


class Engine(Protocol):
    """Produces a worker's answers. One object serves all workers of a profile and keeps no state of them."""

    async def run(self, turn: Turn) -> None:
        """Runs one turn to its end. What it raises fails the turn, not the worker.

        When cancelled it should end at once; its worker stays.
        """
        ...
