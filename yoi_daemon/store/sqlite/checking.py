"""What must hold of a store at any moment, beside what SQLite itself checks."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, get_args

import msgspec

from yoi_daemon.model.events import Retention
from yoi_daemon.model.states import WorkerState
from yoi_daemon.store.sqlite.segments import RETENTIONS, events_of

MOST_TOLD = 20
"""So many rows are named of one kind of fault; a store that is broken is broken everywhere."""

_OF_NO_WORKER = "(runtime_id, worker_id) NOT IN (SELECT runtime_id, worker_id FROM worker)"
_WORKER_STATES = ", ".join(f"'{state}'" for state in get_args(WorkerState))

_RULES: dict[str, str] = {
    "the accepted event {} is gone, how far it is is there": (
        "SELECT number FROM progress WHERE number NOT IN (SELECT number FROM ingress_event)"
    ),
    "the dead letter {} is gone, its entry is there": (
        "SELECT number FROM dead_letter WHERE number NOT IN (SELECT number FROM progress)"
    ),
    "the accepted event {} belongs to two plugins": (
        "SELECT number FROM progress JOIN ingress_event USING (number)"
        " LEFT JOIN dead_letter USING (number) WHERE progress.plugin_id <> ingress_event.plugin_id"
        " OR progress.plugin_id <> dead_letter.plugin_id"
    ),
    "the accepted event {} is claimed by another plugin": (
        "SELECT number FROM claimed, json_each(numbers) JOIN ingress_event ON number = json_each.value"
        " WHERE claimed.plugin_id <> ingress_event.plugin_id"
    ),
    "the place in the queue of event {} is taken twice": (
        "SELECT max(number) FROM ingress_event LEFT JOIN progress USING (number)"
        " GROUP BY ifnull(position, number) HAVING count(*) > 1"
    ),
    "worker {} is gone, items of its transcript are there": (
        f"SELECT DISTINCT worker_id FROM transcript_item WHERE {_OF_NO_WORKER}"
    ),
    "worker {} is gone, inputs to it wait": (
        f"SELECT DISTINCT worker_id FROM inbox_input WHERE {_OF_NO_WORKER}"
    ),
    "worker {} is in a state that there is not": (
        f"SELECT worker_id FROM worker WHERE state NOT IN ({_WORKER_STATES})"
    ),
}
"""What is wrong, and the rows it is wrong of: none, where all is well."""


class _Numbered(msgspec.Struct):
    worker_seq: int | None = None


_numbered = msgspec.json.Decoder(_Numbered)


class _Unreadable(Exception):
    """A segment is not what it should be."""


class _Kept(NamedTuple):
    """What is looked at of an event."""

    seq: int
    worker: tuple[str, str] | None
    worker_seq: int


_Log = Mapping[Retention, Sequence[_Kept]]


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Every fault there is, in words; empty where the store is sound. Takes seconds for a large store."""
    faults = [str(text) for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    if faults:
        return faults  # what is read from such a file proves nothing
    for sentence, query in _RULES.items():
        faults += _told(sentence, (row for (row,) in connection.execute(query)))
    try:
        kept: _Log = {retention: list(_events(connection, retention)) for retention in RETENTIONS}
    except _Unreadable as unreadable:
        return [*faults, str(unreadable)]
    faults += _told("{}", _numbering(connection, kept))
    faults += _told("{}", _worker_numbers(connection, kept))
    return faults


def _events(connection: sqlite3.Connection, retention: Retention) -> Iterator[_Kept]:
    rows = connection.execute(
        f"SELECT last_seq, events, content FROM {RETENTIONS[retention].name} ORDER BY last_seq"
    )
    for last_seq, count, content in rows:
        try:
            events = events_of(content)
            told = [_numbered.decode(event.message) for event in events]
        except (msgspec.MsgspecError, IndexError) as error:
            raise _Unreadable(f"the {retention} events up to number {last_seq}: {error}") from error
        if len(events) != count or events[-1].seq != last_seq:
            raise _Unreadable(f"the {retention} events up to number {last_seq} are not those")
        for event, numbered in zip(events, told, strict=True):
            yield _Kept(event.seq, event.worker, numbered.worker_seq or 0)


def _numbering(connection: sqlite3.Connection, kept: _Log) -> Iterator[str]:
    """What both retention classes keep is there without a hole, and nothing of what they let go of."""
    facts = dict(connection.execute("SELECT name, value FROM fact"))
    if "epoch" not in facts:
        yield "the log has no name"
    floors = {retention: int(facts.get(f"floor.{retention}", 0)) for retention in RETENTIONS}
    for retention, events in kept.items():
        if gone := sum(event.seq <= floors[retention] for event in events):
            yield f"{gone} {retention} events are there that were let go of"
        (beyond,) = connection.execute(
            "SELECT count(*) FROM watermark WHERE lane = ? AND seq > ?",
            (retention, floors[retention]),
        ).fetchone()
        if beyond:
            yield f"{beyond} watermarks of {retention} events are of events that are still there"
    times = Counter(event.seq for events in kept.values() for event in events)
    for seq, count in times.items():
        if count > 1:
            yield f"number {seq} was given to two events"
    floor = max(floors.values())
    last = max(times, default=0)
    missing = last - floor - sum(seq > floor for seq in times)
    if last > floor and missing:
        yield f"{missing} events between number {floor} and {last} are missing"
    head = max(int(facts.get("head", 0)), last, floor)
    (future,) = connection.execute(
        "SELECT count(*) FROM progress WHERE position > ?", (head,)
    ).fetchone()
    if future:
        yield f"{future} accepted events have a number after the last one given, {head}"


def _worker_numbers(connection: sqlite3.Connection, kept: _Log) -> Iterator[str]:
    """A worker's next event gets a number that none before it had."""
    told: dict[tuple[str, str], int] = {}
    for events in kept.values():
        for event in events:
            if event.worker is not None:
                told[event.worker] = max(event.worker_seq, told.get(event.worker, 0))
    for runtime_id, worker_id, noted in connection.execute("SELECT * FROM worker_number"):
        if (last := told.get((runtime_id, worker_id), 0)) > noted:
            yield f"worker {worker_id} of {runtime_id} has event {last}, and counts {noted}"


def _told(sentence: str, found: Iterator[object]) -> list[str]:
    faults = [sentence.format(row) for row in islice(found, MOST_TOLD)]
    return [*faults, "and more of the kind"] if next(found, None) is not None else faults
