"""The event log on disk: the events of a commit are stored together, many to a row.

One row for each event cost 9 us of the writer, 7 of them SQLite's own; segments cost 2.5
(`scripts/bench durable` measures the whole path).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from yoi_daemon.model.events import Retention
from yoi_daemon.store.interface import RecoveredLog
from yoi_daemon.store.sqlite.connection import SqliteConnection
from yoi_daemon.store.tables import (
    FACT,
    LIFECYCLE_SEGMENT,
    VOLUME_SEGMENT,
    WATERMARK,
    LogEvent,
    Segment,
    Table,
)

SEGMENT_EVENTS = 256
SEGMENT_BYTES = 262_144
"""A segment ends with the event that reaches either limit; it is deleted as a whole."""

CLEAN_EVENTS = 1024
CLEAN_BYTES = 1_048_576
"""Limits of what one commit deletes, at least one segment: some 2 ms of the writer's processor time."""

MAX_WATERMARKS = 16_384
"""Limit for each retention class, as in the window in memory."""

RETENTIONS: Mapping[Retention, Table[Segment]] = {
    "lifecycle": LIFECYCLE_SEGMENT,
    "volume": VOLUME_SEGMENT,
}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[LogEvent]).decode


class SegmentedLog:
    """The log's tables, on the writer's connection. Every write is part of a transaction.

    A class's `floor` is the last event that the window evicted. A segment is deleted when its last event
    is below it, and only then does the store's own floor move: events kept beyond the window do no harm.
    """

    def __init__(self, writer: SqliteConnection) -> None:
        self._writer = writer
        self._floors: dict[Retention, int] = {}
        self._deleted: dict[Retention, int] = {}
        # The last number of each class's oldest segment, now and after the transaction.
        self._oldest: dict[Retention, int | None] = {}
        self._new_oldest: dict[Retention, int | None] = {}

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Restores the state from the tables."""
        for retention in RETENTIONS:
            self._floors[retention] = self._deleted[retention] = int(
                facts.get(f"floor.{retention}", 0)
            )
            self._oldest[retention] = self._find_oldest(retention)

    @property
    def is_behind(self) -> bool:
        """True if there are segments to delete."""
        return any(self._is_gone(retention, floor) for retention, floor in self._floors.items())

    def head(self, facts: Mapping[str, Any]) -> int:
        """Returns the last number that was used."""
        heads = [int(facts.get("head", 0))]
        for table in RETENTIONS.values():
            (last,) = next(self._writer.execute(f"SELECT max(last_seq) FROM {table.name}"))
            heads.append(last or 0)
        return max(heads)

    def insert(self, events: Mapping[Retention, Sequence[LogEvent]]) -> int:
        """Writes events, first in a transaction. Returns their size in bytes."""
        self._new_oldest = {}
        size = 0
        for retention, of_retention in events.items():
            if of_retention:
                segments = list(segments_of(of_retention))
                self._writer.executemany(RETENTIONS[retention].insert, segments)
                if self._oldest[retention] is None:
                    self._new_oldest[retention] = segments[0].last_seq
                size += sum(len(segment.content) for segment in segments)
        return size

    def clean(self, floors: Mapping[Retention, int]) -> dict[Retention, int]:
        """Deletes some evicted segments, and writes their watermarks.

        Returns the last deleted number of each class, for `committed`.
        """
        deleted: dict[Retention, int] = {}
        for retention in RETENTIONS:
            floor = floors.get(retention, self._floors[retention])
            if self._is_gone(retention, floor):
                deleted[retention] = self._delete(retention, floor)
                self._new_oldest[retention] = self._find_oldest(retention)
        return deleted

    def committed(self, floors: Mapping[Retention, int], deleted: Mapping[Retention, int]) -> None:
        """Updates the state after the transaction is committed."""
        self._floors.update(floors)
        self._deleted.update(deleted)
        self._oldest.update(self._new_oldest)

    def drop_all(self) -> None:
        """Deletes every event and every watermark."""
        for table in (*RETENTIONS.values(), WATERMARK):
            self._writer.execute(f"DELETE FROM {table.name}")

    def recover(self, facts: Mapping[str, Any]) -> RecoveredLog:
        """Reads the whole log."""
        events = [
            event
            for table in RETENTIONS.values()
            for (content,) in self._writer.execute(
                f"SELECT content FROM {table.name} ORDER BY last_seq"
            )
            for event in events_of(content)
        ]
        events.sort(key=_seq)
        watermarks: dict[Retention, dict[str, int]] = {retention: {} for retention in RETENTIONS}
        for retention, scope, seq in self._writer.execute("SELECT * FROM watermark ORDER BY seq"):
            watermarks[retention][scope] = seq
        return RecoveredLog(
            head=self.head(facts),
            events=events,
            floors=dict(self._deleted),
            shared_marks={
                retention: int(facts.get(f"shared_mark.{retention}", 0)) for retention in RETENTIONS
            },
            watermarks=watermarks,
        )

    def _is_gone(self, retention: Retention, floor: int) -> bool:
        oldest = self._oldest[retention]
        return oldest is not None and oldest <= floor

    def _find_oldest(self, retention: Retention) -> int | None:
        (oldest,) = next(
            self._writer.execute(f"SELECT min(last_seq) FROM {RETENTIONS[retention].name}")
        )
        return oldest

    def _delete(self, retention: Retention, floor: int) -> int:
        table = RETENTIONS[retention].name
        events = size = last = 0
        for last_seq, more, more_bytes in list(
            self._writer.execute(
                f"SELECT last_seq, events, frame_bytes FROM {table}"
                " WHERE last_seq <= ? ORDER BY last_seq LIMIT ?",
                (floor, CLEAN_EVENTS),
            )
        ):
            if last and (events + more > CLEAN_EVENTS or size + more_bytes > CLEAN_BYTES):
                break
            events, size, last = events + more, size + more_bytes, last_seq
        marks: dict[str, int] = {}
        for (content,) in self._writer.execute(
            f"SELECT content FROM {table} WHERE last_seq <= ? ORDER BY last_seq", (last,)
        ):
            for event in events_of(content):
                for scope in _scopes(event):
                    marks[scope] = event.seq
        self._writer.execute(f"DELETE FROM {table} WHERE last_seq <= ?", (last,))
        self._writer.executemany(
            WATERMARK.replace, [(retention, scope, seq) for scope, seq in marks.items()]
        )
        self._bound_watermarks(retention)
        self._writer.execute(FACT.replace, (f"floor.{retention}", last))
        return last

    def _bound_watermarks(self, retention: Retention) -> None:
        (count,) = next(
            self._writer.execute("SELECT count(*) FROM watermark WHERE lane = ?", (retention,))
        )
        if count <= MAX_WATERMARKS:
            return
        gone = list(
            self._writer.execute(
                "SELECT lane, scope, seq FROM watermark WHERE lane = ? ORDER BY seq LIMIT ?",
                (retention, count - MAX_WATERMARKS),
            )
        )
        self._writer.executemany(WATERMARK.delete, [row[:2] for row in gone])
        self._writer.execute(FACT.replace, (f"shared_mark.{retention}", gone[-1][2]))


def segments_of(events: Sequence[LogEvent]) -> Iterator[Segment]:
    """Yields rows for events of one class, in order."""
    start = size = 0
    for number, event in enumerate(events, 1):
        size += len(event.frame)
        if size >= SEGMENT_BYTES or number - start == SEGMENT_EVENTS or number == len(events):
            part = events[start:number]
            yield Segment(event.seq, len(part), size, part[0].monotonic_s, _encode(part))
            start, size = number, 0


def events_of(content: bytes) -> list[LogEvent]:
    """Decodes the `content` of a segment. Raises `msgspec.MsgspecError`."""
    return _decode(content)


def scope_text(scope: tuple[str, str] | str) -> str:
    """Returns a scope as in a watermark's row: a plugin's id, or a worker's two, as JSON."""
    return json.dumps(scope)


def _scopes(event: LogEvent) -> list[str]:
    return [scope_text(scope) for scope in (event.worker, event.plugin_id) if scope is not None]


def _seq(event: LogEvent) -> int:
    return event.seq
