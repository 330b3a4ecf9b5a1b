"""Reads a store from outside the daemon, whether that runs or not."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from yoi_daemon.model.errors import ConfigFault, ConfigurationError, NotAllowed, StorageFailed
from yoi_daemon.store.sqlite.schema import VERSION, check_version

BUSY_S = 10.0
"""Time for which another process may hold a lock, for instance while it recovers the store after a crash."""


@contextmanager
def open_for_reading(file: Path, *, any_version: bool = False) -> Generator[sqlite3.Connection]:
    """Opens a read-only connection in one read transaction, so that all reads see one snapshot.

    The daemon's writer is not blocked meanwhile. With `any_version` an older schema is read too. Errors
    of SQLite are raised as `StorageFailed`, those of the body too. Raises `ConfigurationError` if there
    is no store of this version, and `NotAllowed`.
    """
    try:
        with file.open("rb"):
            pass
    except FileNotFoundError as error:
        raise _fault(
            file,
            "there is no store here: give its state directory with --state DIR "
            '(a daemon with [store] kind = "memory" has none)',
        ) from error
    except OSError as error:
        raise NotAllowed(
            f"{file} cannot be read: {error.strerror}; run this as the daemon's user"
        ) from error
    try:
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
            timeout=BUSY_S,
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("BEGIN")
            _check_version(connection, file, any_version=any_version)
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageFailed(f"{file} cannot be read: {error}; restore a backup") from error


def _check_version(connection: sqlite3.Connection, file: Path, *, any_version: bool) -> None:
    # Reading the schema's table begins the transaction.
    next(connection.execute("SELECT count(*) FROM sqlite_schema"))
    version = check_version(connection, str(file))
    if version == 0 or (version < VERSION and not any_version):
        raise _fault(file, "this store is of an older yoi-daemon; start the daemon on it once")


def _fault(file: Path, expected: str) -> ConfigurationError:
    return ConfigurationError([ConfigFault(file=str(file), key="", expected=expected)])
