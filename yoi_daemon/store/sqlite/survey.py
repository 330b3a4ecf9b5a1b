"""Counts the content of a store."""

import os
import sqlite3
from pathlib import Path

import msgspec

from yoi_daemon.store.sqlite.segments import RETENTIONS
from yoi_daemon.store.tables import TABLES


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """A table; `bytes` is its content, without SQLite's overhead."""

    rows: int
    bytes: int


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's waiting events, with their `bytes` and the `oldest`, and its dead letters.

    `tried` had a failed attempt; `claimed` had an attempt under way, or were about to.
    """

    plugin_id: str
    events: int
    bytes: int
    oldest: str | None
    tried: int
    claimed: int
    dead: int


class KeptLog(msgspec.Struct, frozen=True, kw_only=True):
    """The event log: numbers up to `head`; `floor` is the last number evicted from either retention class."""

    epoch: str
    floor: int
    head: int
    events: int
    bytes: int
    oldest_age_s: float | None


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """One store. `bytes` is the file, `wal_bytes` the write-ahead log beside it; `unused_bytes` will be reused."""

    schema: int
    age_s: float
    bytes: int
    wal_bytes: int
    unused_bytes: int
    free_bytes: int
    log: KeptLog
    plugins: list[Waiting]
    tables: dict[str, TableSize]


def survey(connection: sqlite3.Connection, file: Path) -> Survey:
    """Counts everything; takes a second for some hundred megabytes."""
    facts = dict(connection.execute("SELECT name, value FROM fact"))
    space = os.statvfs(file.parent)
    return Survey(
        schema=_pragma(connection, "user_version"),
        age_s=round(float(facts.get("age_s", 0)), 1),
        bytes=file.stat().st_size,
        wal_bytes=_size(file.with_name(file.name + "-wal")),
        unused_bytes=_pragma(connection, "freelist_count") * _pragma(connection, "page_size"),
        free_bytes=space.f_bavail * space.f_frsize,
        log=_log(connection, facts),
        plugins=_waiting(connection),
        tables={table.name: _table(connection, table.name, table.columns) for table in TABLES},
    )


def _log(connection: sqlite3.Connection, facts: dict[str, str | int | float]) -> KeptLog:
    heads = [int(facts.get("head", 0))]
    events = size = 0
    oldest: list[float] = []
    for table in RETENTIONS.values():
        last, count, content, first = connection.execute(
            f"SELECT max(last_seq), sum(events), sum(frame_bytes), min(age_s) FROM {table.name}"
        ).fetchone()
        if count:
            heads.append(last)
            events += count
            size += content
            oldest.append(first)
    now_s = max([float(facts.get("age_s", 0)), *oldest])
    return KeptLog(
        epoch=str(facts.get("epoch", "")),
        floor=max(int(facts.get(f"floor.{retention}", 0)) for retention in RETENTIONS),
        head=max(heads),
        events=events,
        bytes=size,
        oldest_age_s=round(now_s - min(oldest), 1) if oldest else None,
    )


def _waiting(connection: sqlite3.Connection) -> list[Waiting]:
    rows = connection.execute(
        """SELECT ingress_event.plugin_id, count(*) - count(dead_letter.number),
            sum(iif(dead_letter.number IS NULL, length(payload) + ifnull(length(body), 0), 0)),
            min(iif(dead_letter.number IS NULL, created_at, NULL)),
            sum(dead_letter.number IS NULL AND ifnull(failures, 0) > 0),
            sum(dead_letter.number IS NULL AND (ifnull(claim, 0) > 0 OR ingress_event.number IN
                (SELECT json_each.value FROM claimed, json_each(claimed.numbers)))),
            count(dead_letter.number)
        FROM ingress_event LEFT JOIN progress USING (number) LEFT JOIN dead_letter USING (number)
        GROUP BY ingress_event.plugin_id ORDER BY ingress_event.plugin_id"""
    )
    return [Waiting(**dict(zip(Waiting.__struct_fields__, row, strict=True))) for row in rows]


def _table(connection: sqlite3.Connection, name: str, columns: tuple[str, ...]) -> TableSize:
    content = " + ".join(f"ifnull(length(CAST({column} AS BLOB)), 0)" for column in columns)
    rows, size = connection.execute(f"SELECT count(*), sum({content}) FROM {name}").fetchone()
    return TableSize(rows=rows, bytes=size or 0)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
