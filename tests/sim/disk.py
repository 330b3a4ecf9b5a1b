"""A store with a volatile and a durable half, whose n-th operation may fail."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import trio

from yoi_daemon.model.errors import StorageFailed
from yoi_daemon.model.events import Retention
from yoi_daemon.store.interface import Batch, RecoveredLog, StoreStatistics
from yoi_daemon.store.sqlite.segments import scope_text
from yoi_daemon.store.tables import INGRESS_EVENT, IngressRow, LogEvent, Table

RETENTIONS: Sequence[Retention] = ("lifecycle", "volume")
CLEAN_EVENTS = 3
"""Deleted in one commit: few, so that a crash comes between."""


class Disk:
    """The durable half. `history` and `payloads` are the test's own: all that was ever made durable."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}
        self.events: dict[Retention, dict[int, LogEvent]] = {
            retention: {} for retention in RETENTIONS
        }
        self.floors: dict[Retention, int] = dict.fromkeys(RETENTIONS, 0)
        self.watermarks: dict[Retention, dict[str, int]] = {
            retention: {} for retention in RETENTIONS
        }
        self.age_s = 0.0
        self.history: list[LogEvent] = []
        self.handled: set[str] = set()
        self.payloads: dict[str, bytes] = {}

    def copy(self) -> "Disk":
        copied = Disk()
        copied.rows = {name: dict(rows) for name, rows in self.rows.items()}
        copied.events = {retention: dict(events) for retention, events in self.events.items()}
        copied.floors = dict(self.floors)
        copied.watermarks = {retention: dict(marks) for retention, marks in self.watermarks.items()}
        copied.age_s = self.age_s
        copied.history, copied.handled = list(self.history), set(self.handled)
        copied.payloads = dict(self.payloads)
        return copied

    @property
    def head(self) -> int:
        return self.history[-1].seq if self.history else 0

    def apply(self, batch: Batch, age_s: float) -> None:
        for retention, events in batch.events.items():
            self.events[retention] |= {event.seq: event for event in events}
        added = sorted((event for events in batch.events.values() for event in events), key=_seq)
        for event in added:
            self._note(event)
        for table, key, row in batch.changes:
            rows = self.rows.setdefault(table.name, {})
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
                if table is INGRESS_EVENT:
                    self.payloads[key[0]] = IngressRow(*row).payload
        for retention, floor in batch.floors.items():
            self._clean(retention, floor)
        self.age_s = age_s

    def _note(self, event: LogEvent) -> None:
        self.history.append(event)
        if event.kind in ("plugin.ingress.handled", "plugin.ingress.accepted"):
            data = msgspec.json.decode(event.message)["data"]
            change = self.handled.add if event.kind.endswith("handled") else self.handled.discard
            change(data["event_id"])

    def _clean(self, retention: Retention, floor: int) -> None:
        events = self.events[retention]
        gone = sorted(seq for seq in events if seq <= floor)
        last = gone[CLEAN_EVENTS - 1] if len(gone) >= CLEAN_EVENTS else floor
        for seq in gone[:CLEAN_EVENTS]:
            event = events.pop(seq)
            if event.plugin_id is not None:
                self.watermarks[retention][scope_text(event.plugin_id)] = seq
        self.floors[retention] = max(self.floors[retention], last)


class SimulatedStore:
    """See `Store`. Its operations are counted by `operate`, which raises `StorageFailed` where one fails.

    A commit takes one of `delays`, in seconds.
    """

    kind = "simulated"
    durable = True
    epoch = "00112233aabbccdd"
    is_low = False

    def __init__(
        self,
        disk: Disk,
        chance: Random,
        operate: Callable[[str], None],
        *,
        delays: Sequence[float],
    ) -> None:
        self.disk = disk
        self._chance = chance
        self._operate = operate
        self._delays = delays
        self._clock = trio.lowlevel.current_clock().current_time
        self._begun_s = disk.age_s - self._clock()
        self._volatile: tuple[Batch, float] | None = None
        self._wanted = dict(disk.floors)
        self._commits = 0

    def crash(self) -> Disk:
        """What is found after a power cut now; what this store still does is done to another disk."""
        found, self.disk = self.disk, self.disk.copy()
        if self._volatile is not None and self._chance.random() < 0.5:
            found.apply(*self._volatile)
        return found

    @property
    def is_behind(self) -> bool:
        return self._wanted != self.disk.floors

    def age_s(self) -> float:
        return self._begun_s + self._clock()

    async def commit(self, batch: Batch) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # as a thread that cannot be abandoned
        with trio.CancelScope(shield=True):
            self._operate("write")
            self._volatile = (batch, self.age_s())
            await trio.sleep(self._chance.choice(self._delays))
            try:
                self._operate("sync")
            except StorageFailed:
                # Nobody can say what became of it.
                if self._chance.random() < 0.5:
                    self.disk.apply(*self._volatile)
                raise
            self.disk.apply(*self._volatile)
            self._volatile = None
            self._wanted |= batch.floors
            await trio.lowlevel.checkpoint()
        self._commits += 1

    async def recover_log(self) -> RecoveredLog:
        self._operate("read")
        await trio.lowlevel.checkpoint()
        events = [
            event for retention in RETENTIONS for event in self.disk.events[retention].values()
        ]
        return RecoveredLog(
            head=self.disk.head,
            events=sorted(events, key=_seq),
            floors=dict(self.disk.floors),
            shared_marks=dict.fromkeys(RETENTIONS, 0),
            watermarks={
                retention: dict(marks) for retention, marks in self.disk.watermarks.items()
            },
        )

    async def rows(self, table: Table[Any], **equal: str) -> list[Any]:
        self._operate("read")
        await trio.lowlevel.checkpoint()
        rows = sorted(self.disk.rows.get(table.name, {}).items())
        found = [row for _, row in rows]
        return [
            row
            for row in found
            if all(getattr(row, name) == value for name, value in equal.items())
        ]

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            commits=self._commits,
            commit_p50_ms=0,
            commit_p99_ms=0,
            commit_max_ms=0,
            bytes=0,
            free_bytes=0,
            low=False,
        )


def _seq(event: LogEvent) -> int:
    return event.seq
