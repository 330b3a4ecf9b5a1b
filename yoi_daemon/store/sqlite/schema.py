"""The schema, as migration steps. A released step is never changed."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.frames import text_frame
from yoi_daemon.store.sqlite.connection import SqliteConnection

APPLICATION_ID = 0x596F6944
"""`YoiD` in the file's header, so that another program's database is never taken for ours."""

_EVENT_COLUMNS = """(
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, runtime_id TEXT, worker_id TEXT, plugin_id TEXT,
    is_last INTEGER NOT NULL, age_s REAL NOT NULL, message BLOB NOT NULL) STRICT"""

_SEGMENT_COLUMNS = """(
    last_seq INTEGER PRIMARY KEY, events INTEGER NOT NULL, frame_bytes INTEGER NOT NULL, age_s REAL NOT NULL,
    content BLOB NOT NULL) STRICT"""


def _gather_events(connection: SqliteConnection) -> None:
    """Step 2: stores events in segments, several to a row, as msgpack."""
    for retention in ("lifecycle", "volume"):
        rows = iter(connection.execute(f"SELECT * FROM {retention}_event ORDER BY seq"))
        while some := list(islice(rows, 8)):  # of 256 KiB each, at most
            connection.execute(
                f"INSERT INTO {retention}_segment VALUES (?, ?, ?, ?, ?)", _segment(some)
            )
        connection.execute(f"DROP TABLE {retention}_event")


def _segment(rows: list[Any]) -> tuple[int, int, int, float, bytes]:
    events: list[tuple[Any, ...]] = []
    for seq, kind, runtime_id, worker_id, plugin_id, is_last, age_s, message in rows:
        worker = None if runtime_id is None or worker_id is None else (runtime_id, worker_id)
        events.append((seq, kind, worker, plugin_id, age_s, text_frame(message), bool(is_last)))
    size = sum(len(event[5]) for event in events)
    return rows[-1][0], len(rows), size, rows[0][6], msgspec.msgpack.encode(events)


Step = str | Callable[[SqliteConnection], None]
"""A statement, or a function that runs several."""

MIGRATIONS: Mapping[int, Sequence[Step]] = {
    1: (
        f"CREATE TABLE lifecycle_event {_EVENT_COLUMNS}",
        f"CREATE TABLE volume_event {_EVENT_COLUMNS}",
        """CREATE TABLE watermark (lane TEXT, scope TEXT, seq INTEGER NOT NULL,
            PRIMARY KEY (lane, scope)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE worker_number (runtime_id TEXT, worker_id TEXT, worker_seq INTEGER NOT NULL,
            PRIMARY KEY (runtime_id, worker_id)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE ingress_event (number INTEGER PRIMARY KEY, plugin_id TEXT NOT NULL,
            event_id TEXT NOT NULL, ingress TEXT NOT NULL, correlation_id TEXT NOT NULL, created_at TEXT NOT NULL,
            payload BLOB NOT NULL, body BLOB, headers BLOB NOT NULL) STRICT""",
        """CREATE TABLE progress (number INTEGER PRIMARY KEY, plugin_id TEXT NOT NULL,
            position INTEGER NOT NULL, source TEXT NOT NULL, redelivery_of TEXT,
            attempt INTEGER NOT NULL, failures INTEGER NOT NULL, claim INTEGER NOT NULL,
            attempts BLOB NOT NULL) STRICT""",
        """CREATE TABLE dead_letter (number INTEGER PRIMARY KEY, plugin_id TEXT NOT NULL,
            digest TEXT NOT NULL, died_at TEXT NOT NULL, age_s REAL NOT NULL) STRICT""",
        """CREATE TABLE idempotency_key (owner TEXT, scope TEXT, key TEXT, number INTEGER NOT NULL,
            digest BLOB NOT NULL, age_s REAL NOT NULL, answer BLOB NOT NULL,
            PRIMARY KEY (owner, scope, key)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE plugin_value (plugin_id TEXT, key TEXT, value BLOB NOT NULL,
            PRIMARY KEY (plugin_id, key)) STRICT""",
        """CREATE TABLE worker (runtime_id TEXT, worker_id TEXT, profile TEXT NOT NULL,
            label TEXT NOT NULL, created_at TEXT NOT NULL, state TEXT NOT NULL,
            generation INTEGER NOT NULL, reason BLOB, let_go INTEGER NOT NULL, seq INTEGER NOT NULL,
            PRIMARY KEY (runtime_id, worker_id)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE transcript_item (runtime_id TEXT, worker_id TEXT, number INTEGER,
            item_id TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL, time TEXT NOT NULL,
            PRIMARY KEY (runtime_id, worker_id, number)) STRICT""",
        """CREATE TABLE inbox_input (runtime_id TEXT, worker_id TEXT, item_id TEXT,
            number INTEGER NOT NULL, text TEXT NOT NULL, correlation_id TEXT,
            PRIMARY KEY (runtime_id, worker_id, item_id)) STRICT""",
        "CREATE TABLE fact (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
    ),
    2: (
        f"CREATE TABLE lifecycle_segment {_SEGMENT_COLUMNS}",
        f"CREATE TABLE volume_segment {_SEGMENT_COLUMNS}",
        _gather_events,
        # Only tried events have progress of their own; the claims of a plugin are one row.
        "ALTER TABLE ingress_event ADD COLUMN source TEXT NOT NULL DEFAULT 'api'",
        """UPDATE ingress_event SET source = progress.source FROM progress
            WHERE progress.number = ingress_event.number""",
        """CREATE TABLE claimed (plugin_id TEXT PRIMARY KEY, is_alone INTEGER NOT NULL,
            numbers TEXT NOT NULL) STRICT, WITHOUT ROWID""",
    ),
}
"""The steps to each version from the one before it."""

VERSION = max(MIGRATIONS)


def migrate(
    connection: SqliteConnection, file: str, migrations: Mapping[int, Sequence[Step]] = MIGRATIONS
) -> None:
    """Migrates a database to the newest version, each step whole or not at all.

    Raises as `check_version` does.
    """
    found, newest = check_version(connection, file, migrations), max(migrations)
    for version in range(found + 1, newest + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in migrations[version]:
                if isinstance(step, str):
                    connection.execute(step)
                else:
                    step(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def check_version(
    connection: SqliteConnection, file: str, migrations: Mapping[int, Sequence[Step]] = MIGRATIONS
) -> int:
    """Returns the version of a database, 0 if it is empty. Changes nothing.

    Raises `ConfigurationError` for a newer version than this program knows, and for a file that is
    none of ours.
    """
    (found,) = next(connection.execute("PRAGMA user_version"))
    (application,) = next(connection.execute("PRAGMA application_id"))
    (objects,) = next(connection.execute("SELECT count(*) FROM sqlite_schema"))
    if application != APPLICATION_ID and (application or found or objects):
        raise _fault(file, "a database of this program; move this one away")
    newest = max(migrations)
    if found > newest:
        raise _fault(
            file,
            f"this store was written by a newer yoi-daemon (schema {found}, this one knows {newest}); "
            "install that version again, or restore a backup made before the upgrade",
        )
    return int(found)


def _fault(file: str, expected: str) -> ConfigurationError:
    return ConfigurationError([ConfigFault(file=file, key="", expected=expected)])
