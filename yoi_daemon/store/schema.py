"""The schema, and the steps that brought it here. A step that was ever released is never changed."""

import sqlite3
from collections.abc import Mapping, Sequence

from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.store.connection import Connection

APPLICATION_ID = 0x596F6944
"""`YoiD` in the file's header: another program's database is not taken for one of ours."""

_EVENT_COLUMNS = """(
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, runtime_id TEXT, worker_id TEXT, plugin_id TEXT,
    is_last INTEGER NOT NULL, age_s REAL NOT NULL, message BLOB NOT NULL) STRICT"""

MIGRATIONS: Mapping[int, Sequence[str]] = {
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
}
"""The statements that lead to each version from the one before it."""

VERSION = max(MIGRATIONS)


def migrate(
    connection: Connection, file: str, migrations: Mapping[int, Sequence[str]] = MIGRATIONS
) -> None:
    """Brings a database to the newest version, each step whole or not at all.

    Raises as `check_version` does.
    """
    found, newest = check_version(connection, file, migrations), max(migrations)
    for version in range(found + 1, newest + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise


def check_version(
    connection: Connection, file: str, migrations: Mapping[int, Sequence[str]] = MIGRATIONS
) -> int:
    """The version of a database, 0 where it is empty. It changes nothing.

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
