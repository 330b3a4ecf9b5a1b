"""A copy of a store, made while the daemon goes on writing it."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from yoi_daemon.model.errors import NotAllowed, StorageFailed
from yoi_daemon.store.sqlite.connection import is_full

PAGES_AT_ONCE = 1024
"""4 MiB between two words about the progress."""


def back_up(source: sqlite3.Connection, target: Path, progress: Callable[[float], None]) -> int:
    """Copies what `source`, which is in a read transaction, sees; gives the copy's size in bytes.

    The transaction holds the moment: what is committed meanwhile does not begin the copy anew. It is
    on the disk, with mode 0600, before it bears its name, and it says that it is a copy: a daemon
    begins another log on it, for the numbers after it were given to other events. `progress` is told
    the share that is done; what it raises ends the copy. Raises `NotAllowed`, where there is such a
    file already too, and `StorageFailed` without room for it.
    """
    partial = target.with_name(target.name + ".partial")
    made: list[Path] = []
    try:
        for path in (target, partial):  # the name is ours from here on
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
            f"{error.filename} is there already; remove it, or name another file"
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
        # One file, without a log beside it that could be forgotten or mixed up.
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
