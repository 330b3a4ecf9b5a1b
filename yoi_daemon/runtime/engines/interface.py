"""What an engine is: it runs one turn of a conversation, and may stream, fail or hang."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from yoi_daemon.cancellation import CallClosedError
from yoi_daemon.model.workers import Role
from yoi_daemon.runtime.transcript import Item


class ItemWriter(Protocol):
    """An item under way."""

    async def write(self, text: str) -> None:
        """Adds to the item's text, and lets subscribers see it soon. Waits while too much is uncommitted.

        Raises `TurnClosedError` when the turn has ended, and `Refused` (`payload_too_large`) for an
        item larger than a transcript.
        """
        ...


class Turn(Protocol):
    """What an engine is given for one turn. When the turn has ended, what comes late is refused."""

    @property
    def input(self) -> str:
        """The input of this turn; it is the last item of `history` already."""
        ...

    @property
    def history(self) -> Sequence[Item]:
        """The transcript as far as it is kept, oldest first."""
        ...

    async def append(self, role: Role, text: str) -> None:
        """Adds an item to the transcript. Waits while too much is uncommitted.

        Raises `TurnClosedError` when the turn has ended.
        """
        ...

    def stream(self, role: Role) -> AbstractAsyncContextManager[ItemWriter]:
        """An item that is written part by part within the context, and added to the transcript at its end.

        Subscribers see the parts as `worker.delta`. Left by an exception, nothing is added.
        """
        ...


class TurnClosedError(CallClosedError):
    """The turn was cancelled or has ended: its effects are refused."""


class Engine(Protocol):
    """Makes a worker's answers. One object serves all workers of a profile and keeps nothing of them."""

    async def run(self, turn: Turn) -> None:
        """Runs one turn to its end. What it raises fails the turn, not the worker.

        Cancelled, it should end at once; its worker goes on.
        """
        ...
