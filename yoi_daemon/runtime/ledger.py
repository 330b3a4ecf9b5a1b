"""Writes a runtime's workers to the store, and restores them after a restart."""

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from yoi_daemon.eventlog.interface import Commit, EventLog
from yoi_daemon.model.events import Reason
from yoi_daemon.model.workers import Role, WorkerSummary
from yoi_daemon.runtime.transcript import Item
from yoi_daemon.runtime.turn import Input
from yoi_daemon.store.interface import Store
from yoi_daemon.store.tables import (
    INBOX_INPUT,
    TRANSCRIPT_ITEM,
    WORKER,
    Change,
    InboxRow,
    Table,
    TranscriptRow,
    WorkerRow,
)

_reason = msgspec.json.Decoder(Reason)


class WorkerLedger:
    """Writes one runtime's workers to the store, each change in the commit of its event.

    Writes nothing unless the log is `durable`.
    """

    def __init__(self, runtime_id: str, event_log: EventLog) -> None:
        self._runtime_id = runtime_id
        self.durable = event_log.durable

    def worker(self, commit: Commit, summary: WorkerSummary, *, evicted: int, seq: int) -> None:
        """Writes the worker; `seq` is the number of the event that last changed its state."""
        if not self.durable:
            return
        row = WorkerRow(
            self._runtime_id,
            summary.worker_id,
            summary.profile,
            summary.label,
            summary.created_at,
            summary.state,
            summary.generation,
            None if summary.reason is None else msgspec.json.encode(summary.reason),
            evicted,
            seq,
        )
        commit.record((WORKER.put(row),))

    def item(self, commit: Commit, worker_id: str, number: int, item: Item, evicted: range) -> None:
        """Writes an item of the transcript, and removes those with the `evicted` numbers."""
        if not self.durable:
            return
        row = TranscriptRow(
            self._runtime_id, worker_id, number, item.item_id, item.role, item.text, item.time
        )
        changes: list[Change] = [TRANSCRIPT_ITEM.put(row)]
        changes += [TRANSCRIPT_ITEM.drop(self._runtime_id, worker_id, number) for number in evicted]
        commit.record(changes)

    def input(self, commit: Commit, worker_id: str, number: int, accepted: Input) -> None:
        """Writes an input of the inbox, which is in the order of `number`."""
        if self.durable:
            row = InboxRow(
                self._runtime_id,
                worker_id,
                accepted.item_id,
                number,
                accepted.text,
                accepted.correlation_id,
            )
            commit.record((INBOX_INPUT.put(row),))

    def drop_inputs(self, commit: Commit, worker_id: str, inputs: Iterable[Input]) -> None:
        """Removes inputs from the inbox."""
        if self.durable:
            commit.record(
                [
                    INBOX_INPUT.drop(self._runtime_id, worker_id, waiting.item_id)
                    for waiting in inputs
                ]
            )

    def forget(self, commit: Commit, worker_id: str, items: range) -> None:
        """Removes an evicted worker; `items` are the numbers of its transcript."""
        if self.durable:
            changes: list[Change] = [WORKER.drop(self._runtime_id, worker_id)]
            changes += [TRANSCRIPT_ITEM.drop(self._runtime_id, worker_id, item) for item in items]
            commit.record(changes)


class KeptWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of an earlier run, with its transcript and its inbox, in order."""

    row: WorkerRow
    items: tuple[Item, ...] = ()
    inbox: tuple[InboxRow, ...] = ()

    @property
    def reason(self) -> Reason | None:
        """Returns why the worker is in its state."""
        return None if self.row.reason is None else _reason.decode(self.row.reason)


async def restore(store: Store, runtime_id: str) -> list[KeptWorker]:
    """Reads the workers of earlier runs, in the order of their last state changes. Raises `StorageFailed`."""
    items = await _by_worker(store, TRANSCRIPT_ITEM, runtime_id)
    inboxes = await _by_worker(store, INBOX_INPUT, runtime_id)
    rows = await store.rows(WORKER, runtime_id=runtime_id)
    return [
        KeptWorker(
            row=row,
            items=tuple(map(_item, items.get(row.worker_id, ()))),
            inbox=tuple(sorted(inboxes.get(row.worker_id, ()), key=lambda waiting: waiting.number)),
        )
        for row in sorted(rows, key=lambda row: row.seq)
    ]


def _item(row: TranscriptRow) -> Item:
    return Item(
        item_id=row.item_id,
        role=cast("Role", row.role),
        text=row.text,
        time=row.time,
        size=len(row.text.encode("utf-8")),
    )


async def _by_worker(store: Store, table: Table[Any], runtime_id: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in await store.rows(table, runtime_id=runtime_id):
        found.setdefault(row.worker_id, []).append(row)
    return found
