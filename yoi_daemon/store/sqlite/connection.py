"""Connections to SQLite. A store takes the function that makes them: a test may give one with a file system of its own."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol


class SqliteConnection(Protocol):
    """What the store uses of a connection. Its errors are `sqlite3.Error` with their `sqlite_errorcode`."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Iterator[Any]:
        """Runs one statement; its rows."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Runs one statement with each of the parameters."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


Connect = Callable[[Path], SqliteConnection]


def connect(path: Path) -> sqlite3.Connection:
    """A connection without transactions of its own, usable from any thread, one at a time."""
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)


def is_full(error: BaseException) -> bool:
    """Whether SQLite says that the disk is full. It has undone the transaction then."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_FULL
