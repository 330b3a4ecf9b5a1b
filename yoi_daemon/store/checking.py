"""What must hold of a store at any moment, beside what SQLite itself checks."""

import sqlite3
from collections.abc import Iterator
from itertools import islice

import msgspec

from yoi_daemon.store.sqlite import LANES

MOST_TOLD = 20
"""So many rows are named of one kind of fault; a store that is broken is broken everywhere."""

_EVERY_EVENT = " UNION ALL ".join(f"SELECT seq FROM {table.name}" for table in LANES.values())

_RULES: dict[str, str] = {
    "the accepted event {} is gone, its place in the queue is there": (
        "SELECT number FROM progress WHERE number NOT IN (SELECT number FROM ingress_event)"
    ),
    "the accepted event {} has no place in a queue": (
        "SELECT number FROM ingress_event WHERE number NOT IN (SELECT number FROM progress)"
    ),
    "the dead letter {} is gone, its entry is there": (
        "SELECT number FROM dead_letter WHERE number NOT IN (SELECT number FROM progress)"
    ),
    "the accepted event {} belongs to two plugins": (
        "SELECT number FROM progress JOIN ingress_event USING (number)"
        " LEFT JOIN dead_letter USING (number) WHERE progress.plugin_id <> ingress_event.plugin_id"
        " OR progress.plugin_id <> dead_letter.plugin_id"
    ),
    "the place in the queue of event {} is taken twice": (
        "SELECT max(number) FROM progress GROUP BY position HAVING count(*) > 1"
    ),
    "number {} was given to two events": (
        f"SELECT seq FROM ({_EVERY_EVENT}) GROUP BY seq HAVING count(*) > 1"
    ),
}
"""What is wrong, and the rows it is wrong of: none, where all is well."""


class _Numbered(msgspec.Struct):
    worker_seq: int | None = None


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Every fault there is, in words; empty where the store is sound. Takes seconds for a large store."""
    faults = [str(text) for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    if faults:
        return faults  # what is read from such a file proves nothing
    for sentence, query in _RULES.items():
        faults += _told(sentence, (row for (row,) in connection.execute(query)))
    faults += _told("{}", _numbering(connection))
    faults += _told("{}", _worker_numbers(connection))
    return faults


def _numbering(connection: sqlite3.Connection) -> Iterator[str]:
    """What both retention lanes keep is there without a hole, and nothing of what they let go of."""
    facts = dict(connection.execute("SELECT name, value FROM fact"))
    if "epoch" not in facts:
        yield "the log has no name"
    floors = {lane: int(facts.get(f"floor.{lane}", 0)) for lane in LANES}
    for lane, table in LANES.items():
        (gone,) = connection.execute(
            f"SELECT count(*) FROM {table.name} WHERE seq <= ?", (floors[lane],)
        ).fetchone()
        if gone:
            yield f"{gone} {lane} events are there that were let go of"
        (beyond,) = connection.execute(
            "SELECT count(*) FROM watermark WHERE lane = ? AND seq > ?", (lane, floors[lane])
        ).fetchone()
        if beyond:
            yield f"{beyond} watermarks of {lane} events are of events that are still there"
    floor = max(floors.values())
    last, count = connection.execute(
        f"SELECT max(seq), count(DISTINCT seq) FROM ({_EVERY_EVENT}) WHERE seq > ?", (floor,)
    ).fetchone()
    if last is not None and last - floor != count:
        yield f"{last - floor - count} events between number {floor} and {last} are missing"
    head = max(int(facts.get("head", 0)), last or floor)
    (future,) = connection.execute(
        "SELECT count(*) FROM progress WHERE position > ?", (head,)
    ).fetchone()
    if future:
        yield f"{future} accepted events have a number after the last one given, {head}"


def _worker_numbers(connection: sqlite3.Connection) -> Iterator[str]:
    """A worker's next event gets a number that none before it had."""
    for table in LANES.values():
        # Beside max() a plain column is of the row that has the maximum: SQLite promises it.
        rows = connection.execute(
            f"SELECT runtime_id, worker_id, max(seq), message, worker_seq FROM {table.name}"
            " JOIN worker_number USING (runtime_id, worker_id) GROUP BY runtime_id, worker_id"
        )
        for runtime_id, worker_id, _, message, noted in rows:
            told = msgspec.json.decode(message, type=_Numbered).worker_seq
            if told is not None and told > noted:
                yield f"worker {worker_id} of {runtime_id} has event {told}, and counts {noted}"


def _told(sentence: str, found: Iterator[object]) -> list[str]:
    faults = [sentence.format(row) for row in islice(found, MOST_TOLD)]
    return [*faults, "and more of the kind"] if next(found, None) is not None else faults
