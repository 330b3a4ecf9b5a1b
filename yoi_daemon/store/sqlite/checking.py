"""Checks the invariants of a store, beside those that SQLite itself checks."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, get_args

import msgspec

from yoi_daemon.model.events import Retention
from yoi_daemon.model.states import WorkerState
from yoi_daemon.store.sqlite.segments import RETENTIONS, events_of

MOST_REPORTED = 20
"""Limit of reported rows for each kind of fault: a broken store is broken everywhere."""

_OF_NO_WORKER = "(runtime_id, worker_id) NOT IN (SELECT runtime_id, worker_id FROM worker)"
_WORKER_STATES = ", ".join(f"'{state}'" for state in get_args(WorkerState))

_RULES: dict[str, str] = {
    "the accepted event {} is missing, its progress is there": (
        "SELECT number FROM progress WHERE number NOT IN (SELECT number FROM ingress_event)"
    ),
    "the progress of the dead letter {} is missing": (
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
    "event {} shares its place in the queue with another": (
        "SELECT max(number) FROM ingress_event LEFT JOIN progress USING (number)"
        " GROUP BY ifnull(position, number) HAVING count(*) > 1"
    ),
    "worker {} is missing, items of its transcript are there": (
        f"SELECT DISTINCT worker_id FROM transcript_item WHERE {_OF_NO_WORKER}"
    ),
    "worker {} is missing, inputs to it are there": (
        f"SELECT DISTINCT worker_id FROM inbox_input WHERE {_OF_NO_WORKER}"
    ),
    "worker {} is in an unknown state": (
        f"SELECT worker_id FROM worker WHERE state NOT IN ({_WORKER_STATES})"
    ),
}
"""Each fault, and the query for its rows: none in a sound store."""


class _Numbered(msgspec.Struct):
    worker_seq: int | None = None


_numbered = msgspec.json.Decoder(_Numbered)


class _Unreadable(Exception):
    """A segment cannot be decoded, or does not match its row."""


class _Kept(NamedTuple):
    """The checked fields of an event."""

    seq: int
    worker: tuple[str, str] | None
    worker_seq: int


_Log = Mapping[Retention, Sequence[_Kept]]


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Returns all faults, in words; none if the store is sound. Takes seconds for a large store."""
    faults = [str(text) for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    if faults:
        return faults  # nothing read from such a file is reliable
    for sentence, query in _RULES.items():
        faults += _reports(sentence, (row for (row,) in connection.execute(query)))
    try:
        kept: _Log = {retention: list(_events(connection, retention)) for retention in RETENTIONS}
    except _Unreadable as unreadable:
        return [*faults, str(unreadable)]
    faults += _reports("{}", _numbering(connection, kept))
    faults += _reports("{}", _worker_numbers(connection, kept))
    return faults


def _events(connection: sqlite3.Connection, retention: Retention) -> Iterator[_Kept]:
    rows = connection.execute(
        f"SELECT last_seq, events, content FROM {RETENTIONS[retention].name} ORDER BY last_seq"
    )
    for last_seq, count, content in rows:
        try:
            events = events_of(content)
            messages = [_numbered.decode(event.message) for event in events]
        except (msgspec.MsgspecError, IndexError) as error:
            raise _Unreadable(f"the {retention} events up to number {last_seq}: {error}") from error
        if len(events) != count or events[-1].seq != last_seq:
            raise _Unreadable(
                f"the {retention} events up to number {last_seq} do not match their row"
            )
        for event, numbered in zip(events, messages, strict=True):
            yield _Kept(event.seq, event.worker, numbered.worker_seq or 0)


def _numbering(connection: sqlite3.Connection, kept: _Log) -> Iterator[str]:
    """Checks that the events above the floors have no gap, and that none is below."""
    facts = dict(connection.execute("SELECT name, value FROM fact"))
    if "epoch" not in facts:
        yield "the log has no epoch"
    floors = {retention: int(facts.get(f"floor.{retention}", 0)) for retention in RETENTIONS}
    for retention, events in kept.items():
        if gone := sum(event.seq <= floors[retention] for event in events):
            yield f"{gone} {retention} events are there that were evicted"
        (beyond,) = connection.execute(
            "SELECT count(*) FROM watermark WHERE lane = ? AND seq > ?",
            (retention, floors[retention]),
        ).fetchone()
        if beyond:
            yield f"{beyond} watermarks of {retention} events are above the floor"
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
        yield f"{future} accepted events have a number above the last one, {head}"


def _worker_numbers(connection: sqlite3.Connection, kept: _Log) -> Iterator[str]:
    """Checks that each worker's next number is a new one."""
    latest: dict[tuple[str, str], int] = {}
    for events in kept.values():
        for event in events:
            if event.worker is not None:
                latest[event.worker] = max(event.worker_seq, latest.get(event.worker, 0))
    for runtime_id, worker_id, counted in connection.execute("SELECT * FROM worker_number"):
        if (last := latest.get((runtime_id, worker_id), 0)) > counted:
            yield f"worker {worker_id} of {runtime_id} has event {last}, but counts {counted}"


def _reports(sentence: str, found: Iterator[object]) -> list[str]:
    faults = [sentence.format(row) for row in islice(found, MOST_REPORTED)]
    return [*faults, "and more of this kind"] if next(found, None) is not None else faults
