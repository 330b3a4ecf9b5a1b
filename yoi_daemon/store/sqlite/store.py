"""The store on SQLite: one writer, group commit, and every commit on disk before it is announced."""

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any, TypeVar

import msgspec
import trio

from yoi_daemon.model.cursor import random_epoch
from yoi_daemon.model.errors import StorageFailed
from yoi_daemon.model.histogram import Histogram
from yoi_daemon.store.interface import COMMIT_BOUNDS_S, Batch, Clock, RecoveredLog, StoreStatistics
from yoi_daemon.store.sqlite.connection import Connect, SqliteConnection, connect, is_full
from yoi_daemon.store.sqlite.schema import check_version, migrate
from yoi_daemon.store.sqlite.segments import RETENTIONS, SegmentedLog
from yoi_daemon.store.sqlite.space import Space
from yoi_daemon.store.tables import FACT, Changes, Table

R = TypeVar("R", bound=tuple[Any, ...])

CHECKPOINT_BYTES = 4_194_304
"""Size of the write-ahead log at which it is checkpointed: 4 MiB, SQLite's own default."""

AGE_EVERY_S = 10.0
"""Maximum age that a store forgets in a crash."""

MAX_EPOCHS = 256
"""Limit of remembered earlier epochs: one more for each restored backup."""

TIMES_KEPT = 256


class SqliteStore:
    """See `Store`. Call `open` first, and `close` last.

    Writer and readers have a connection and a thread limiter each, so neither waits for the other.
    Every descriptor is opened at the start.
    """

    kind = "sqlite"
    durable = True

    def __init__(
        self,
        path: Path,
        *,
        low_bytes: int,
        reserve_bytes: int,
        clock: Clock | None = None,
        new_epoch: Callable[[], str] = random_epoch,
        make_connection: Connect = connect,
    ) -> None:
        self.epoch = ""
        self.earlier_epochs = ()
        self._path = path
        # The clock itself, because every event reads it: `trio.current_time` looks it up each time.
        self._clock = clock or trio.lowlevel.current_clock().current_time
        self._new_epoch = new_epoch
        self._make_connection = make_connection
        self._low_bytes, self._reserve_bytes = low_bytes, reserve_bytes
        self._writer_limiter = trio.CapacityLimiter(1)
        self._reader_limiter = trio.CapacityLimiter(1)
        self._age_base_s = 0.0
        self._age_noted_s = 0.0
        self._since_checkpoint = 0
        self._commits = 0
        self._times_ms: deque[float] = deque(maxlen=TIMES_KEPT)
        self._commit_times = Histogram(COMMIT_BOUNDS_S)

    async def open(self) -> None:
        """Opens or creates the file, and migrates its schema.

        Raises `ConfigurationError` for a newer store or a foreign file, and `StorageFailed`.
        """
        await trio.to_thread.run_sync(self._open, limiter=self._writer_limiter)
        self._age_base_s -= self._clock()

    async def close(self) -> None:
        """Checkpoints the write-ahead log and closes all connections. Shield it."""
        await trio.to_thread.run_sync(self._close, self.age_s(), limiter=self._writer_limiter)

    @property
    def is_low(self) -> bool:
        return self._space.is_low

    @property
    def is_behind(self) -> bool:
        return self._log.is_behind

    def age_s(self) -> float:
        return self._age_base_s + self._clock()

    async def commit(self, batch: Batch) -> None:
        await trio.to_thread.run_sync(
            self._commit, batch, self.age_s(), limiter=self._writer_limiter
        )

    async def recover_log(self) -> RecoveredLog:
        return await trio.to_thread.run_sync(self._recover_log, limiter=self._writer_limiter)

    async def rows(self, table: Table[R], **equal: str) -> list[R]:
        return await trio.to_thread.run_sync(self._rows, table, equal, limiter=self._reader_limiter)

    async def measure_space(self) -> None:
        """Measures the free space, which updates `is_low`."""
        await trio.to_thread.run_sync(self._space.measure, limiter=self._writer_limiter)

    def statistics(self) -> StoreStatistics:
        times = sorted(self._times_ms) or [0.0]
        cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
        return StoreStatistics(
            commits=self._commits,
            commit_p50_ms=round(cuts[49], 3),
            commit_p99_ms=round(cuts[98], 3),
            commit_max_ms=round(times[-1], 3),
            commit_times=self._commit_times.snapshot(),
            bytes=sum(_size(self._path.with_name(self._path.name + end)) for end in ("", "-wal")),
            free_bytes=self._space.free_bytes,
            low=self._space.is_low,
        )

    # -- in threads

    def _open(self) -> None:
        try:
            with ExitStack() as opened:
                self._space = Space(
                    self._path.parent, low_bytes=self._low_bytes, reserve_bytes=self._reserve_bytes
                )
                opened.callback(self._space.close)
                # Created first, with its mode: SQLite copies it for its other files.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._writer = self._connect(opened)
                migrate(self._writer, str(self._path))
                self._log = SegmentedLog(self._writer)
                self._begin()
                self._reader = self._connect(opened)
                self._reader.execute("PRAGMA query_only = ON")
                next(self._reader.execute("SELECT count(*) FROM fact"))
                opened.pop_all()
        except sqlite3.Error as error:
            raise StorageFailed(
                f"the store {self._path} cannot be opened: {error}; "
                "check it with yoi-daemon store check, or restore a backup"
            ) from error
        except OSError as error:
            raise StorageFailed(
                f"the store {self._path} cannot be opened: {error.strerror}"
            ) from error

    def _close(self, age_s: float) -> None:
        with suppress(sqlite3.Error):  # committed data is safe in the write-ahead log
            self._put_fact("age_s", age_s)
            next(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        self._reader.close()
        self._writer.close()
        self._space.close()

    def _connect(self, opened: ExitStack) -> SqliteConnection:
        connection = self._make_connection(self._path)
        opened.callback(connection.close)
        check_version(
            connection, str(self._path)
        )  # before anything is changed of a file that is not ours
        settings = {"journal_mode": ("WAL", "wal"), "synchronous": ("FULL", 2)}
        for name, (wanted, found) in settings.items():
            connection.execute(f"PRAGMA {name} = {wanted}")
            if next(connection.execute(f"PRAGMA {name}")) != (found,):
                raise StorageFailed(
                    f"the file system of {self._path} does not support SQLite's {name} = {wanted}: "
                    "a 202 would not be durable; use a local disk"
                )
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # ours reports errors
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        return connection

    def _begin(self) -> None:
        facts = dict(self._writer.execute("SELECT * FROM fact"))
        if "epoch" not in facts or "restored" in facts:
            facts = self._begin_epoch(facts)
        self.epoch = str(facts["epoch"])
        self.earlier_epochs = tuple(str(facts.get("earlier_epochs", "")).split())
        self._age_base_s = self._age_noted_s = float(facts.get("age_s", 0.0))
        self._log.begin(facts)

    def _begin_epoch(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Begins a new epoch: numbers after a backup were given to other events since."""
        head = self._log.head(facts)
        earlier = [*str(facts.get("earlier_epochs", "")).split(), str(facts.get("epoch", ""))]
        begun = {
            "epoch": self._new_epoch(),
            "earlier_epochs": " ".join(earlier[-MAX_EPOCHS:]).strip(),
            "head": head,
        }
        for retention in RETENTIONS:
            begun[f"floor.{retention}"] = begun[f"shared_mark.{retention}"] = head
        self._writer.execute("BEGIN IMMEDIATE")
        self._log.drop_all()
        self._writer.execute(FACT.delete, ("restored",))
        self._writer.executemany(FACT.replace, list(begun.items()))
        self._writer.execute("COMMIT")
        return facts | begun

    def _put_fact(self, name: str, value: str | float) -> None:
        self._writer.execute(FACT.replace, (name, value))

    def _commit(self, batch: Batch, age_s: float) -> None:
        begun_s = time.perf_counter()
        try:
            try:
                self._write(batch, age_s)
            except sqlite3.Error as error:
                # A full disk has rolled back the transaction; after any other error its outcome is in doubt.
                if not is_full(error) or not self._space.release():
                    raise
                self._write(batch, age_s)
            self._checkpoint_when_due()
        except sqlite3.Error as error:
            raise StorageFailed(
                f"a commit failed: {error}; the daemon ends, and recovers what was accepted when it restarts"
            ) from error
        self._commits += 1
        duration_s = time.perf_counter() - begun_s
        self._times_ms.append(duration_s * 1000)
        self._commit_times.observe(duration_s)
        self._space.measure()

    def _write(self, batch: Batch, age_s: float) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            self._since_checkpoint += self._log.insert(batch.events)
            self._change(batch.changes)
            deleted = self._log.clean(batch.floors)
            if age_s - self._age_noted_s >= AGE_EVERY_S:
                self._put_fact("age_s", age_s)
                self._age_noted_s = age_s
            writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have rolled back already
                writer.execute("ROLLBACK")
            raise
        self._log.committed(batch.floors, deleted)

    def _change(self, changes: Changes) -> None:
        # The last change of a row counts, so the order between tables does not matter.
        latest: dict[Table[Any], dict[tuple[Any, ...], tuple[Any, ...] | None]] = {}
        for table, key, row in changes:
            latest.setdefault(table, {})[key] = row
        for table, rows in latest.items():
            dropped = [key for key, row in rows.items() if row is None]
            put = [row for row in rows.values() if row is not None]
            if dropped:
                self._writer.executemany(table.delete, dropped)
            if put:
                self._writer.executemany(table.replace, put)
            self._since_checkpoint += _PAGE_BYTES + _ROW_BYTES * len(put)
            for index in table.large:
                self._since_checkpoint += sum([len(row[index] or b"") for row in put])

    def _checkpoint_when_due(self) -> None:
        if self._since_checkpoint < CHECKPOINT_BYTES:
            return
        self._since_checkpoint = 0
        try:
            next(self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        except sqlite3.Error as error:
            if not is_full(error):  # then the data stays in the write-ahead log, where it is safe
                raise

    def _recover_log(self) -> RecoveredLog:
        try:
            return self._log.recover(dict(self._writer.execute("SELECT * FROM fact")))
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise StorageFailed(f"the store {self._path} cannot be read: {error}") from error

    def _rows(self, table: Table[R], equal: Mapping[str, str]) -> list[R]:
        where = " AND ".join(f"{column} = ?" for column in equal)
        order = ", ".join(table.columns[: table.key_columns])
        sql = f"SELECT {', '.join(table.columns)} FROM {table.name}"
        sql += f" WHERE {where}" * bool(where) + f" ORDER BY {order}"
        try:
            found = list(self._reader.execute(sql, tuple(equal.values())))
        except sqlite3.Error as error:
            raise StorageFailed(f"the store {self._path} cannot be read: {error}") from error
        return [table.row_type(*row) for row in found]


_PAGE_BYTES = 4096
_ROW_BYTES = 128
"""Approximate size of a row without its large columns."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
