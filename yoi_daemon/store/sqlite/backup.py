"""Backs up a store while the daemon writes to it."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from yoi_daemon.model.errors import NotAllowed, StorageFailed
from yoi_daemon.store.sqlite.connection import is_full

PAGES_AT_ONCE = 1024
"""Pages between two reports of progress: 4 MiB."""


def back_up(source: sqlite3.Connection, target: Path, progress: Callable[[float], None]) -> int:
    """Copies the snapshot of `source`, which is in a read transaction. Returns the copy's size in bytes.

    Commits meanwhile do not restart the copy. It is on disk, with mode 0600, before it gets its name,
    and is marked as a copy: a daemon begins a new epoch on it, because later numbers were given to other
    events. `progress` is called with the share that is done; its error ends the copy. Raises
    `NotAllowed`, also if the file exists, and `StorageFailed` without room for it.
    """
    partial = target.with_name(target.name + ".partial")
    made: list[Path] = []
    try:
        for path in (target, partial):  # from here on the name is ours
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(path, flags, 0o600))
            made.append(path)
        _copy(source, partial, progress)
        _sync(partial)
        partial.replace(target)
        made.clear()
        _sync(target.parent)
    except FileExistsError as error:
        raise NotAllowed(
            f"{error.filename} exists already; remove it, or name another file"
        ) from error
    except OSError as error:
        raise NotAllowed(f"{target} cannot be written: {error.strerror}") from error
    except sqlite3.Error as error:
        if not is_full(error):
            raise
        raise StorageFailed(f"there is no room for {target}: name a file elsewhere") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.unlink()
    return target.stat().st_size


def _copy(source: sqlite3.Connection, target: Path, progress: Callable[[float], None]) -> None:
    def report(_status: int, remaining: int, total: int) -> None:
        progress(1 - remaining / total if total else 1.0)

    copy = sqlite3.connect(target, isolation_level=None)
    try:
        source.backup(copy, pages=PAGES_AT_ONCE, progress=report, sleep=0)
        # One file, without a write-ahead log beside it that could be forgotten or mixed up.
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("INSERT OR REPLACE INTO fact VALUES ('restored', 1)")
    finally:
        copy.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
