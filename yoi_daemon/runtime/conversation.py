"""A worker's conversation as its turns see it: the transcript, and the events of its items."""

from collections.abc import Callable, Sequence

import trio

from yoi_daemon.eventlog.interface import Commit
from yoi_daemon.model.events import WorkerDelta, format_time
from yoi_daemon.model.workers import Role
from yoi_daemon.runtime.emitting import Emitter
from yoi_daemon.runtime.services import RuntimeServices
from yoi_daemon.runtime.transcript import Item, Transcript


class Conversation:
    """Implements `turn.Conversation`. `record` writes the worker's row when items were evicted."""

    def __init__(
        self,
        worker_id: str,
        services: RuntimeServices,
        emitter: Emitter,
        record: Callable[[Commit], None],
    ) -> None:
        self.transcript = Transcript(
            max_items=services.settings.transcript_items,
            max_bytes=services.settings.transcript_bytes,
        )
        self._worker_id = worker_id
        self._services = services
        self._emitter = emitter
        self._record = record

    def history(self) -> Sequence[Item]:
        return self.transcript.items()

    async def room(self) -> None:
        await self._services.event_log.room()
        # There nearly always is room: without this an engine that only appends could not be cancelled.
        await trio.lowlevel.checkpoint()

    def new_item_id(self) -> str:
        return self._services.ids.new("itm")

    def add_item(self, item_id: str, role: Role, text: str, correlation_id: str | None) -> None:
        time = format_time(self._services.wall_clock())
        before = self.transcript.numbers
        item = self.transcript.append(item_id=item_id, role=role, text=text, time=time)
        evicted = range(before.start, self.transcript.numbers.start)
        with self._services.event_log.together() as commit:
            self._emitter.item(item, correlation_id)
            self._services.ledger.item(commit, self._worker_id, before.stop, item, evicted)
            if evicted:
                self._record(commit)

    def emit_delta(self, delta: WorkerDelta, correlation_id: str | None) -> None:
        self._emitter.delta(delta, correlation_id)

    @property
    def max_item_bytes(self) -> int:
        return self._services.settings.transcript_bytes
