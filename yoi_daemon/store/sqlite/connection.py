"""Connections to SQLite. The store's factory is a parameter, so that a test can use its own file system."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol


class SqliteConnection(Protocol):
    """The part of a connection that the store uses. Its errors are `sqlite3.Error` with `sqlite_errorcode`."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Iterator[Any]:
        """Runs one statement, and returns its rows."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Runs one statement with each of the parameters."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


Connect = Callable[[Path], SqliteConnection]


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection without implicit transactions, usable from any thread, one at a time."""
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)


def is_full(error: BaseException) -> bool:
    """True if SQLite reports a full disk, and has rolled back the transaction."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_FULL
