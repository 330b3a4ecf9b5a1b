"""Opens the configured store, and closes it after everything that writes to it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from yoi_daemon.model.cursor import random_epoch
from yoi_daemon.model.settings import MemoryStoreSettings, SqliteStoreSettings, StoreSettings
from yoi_daemon.store.interface import Clock, Store
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.store.sqlite.connection import Connect, connect
from yoi_daemon.store.sqlite.store import SqliteStore

FILE_NAME = "store.sqlite3"
SPACE_EVERY_S = 1.0
"""Maximum delay before freed space is noticed."""


@asynccontextmanager
async def open_store(
    settings: StoreSettings,
    state: Path,
    *,
    clock: Clock | None = None,
    new_epoch: Callable[[], str] = random_epoch,
    make_connection: Connect = connect,
) -> AsyncGenerator[Store]:
    """Opens the store in the directory `state`, whose lock the caller holds.

    Raises `ConfigurationError` for a store of a newer version, and `StorageFailed`.
    """
    match settings:
        case MemoryStoreSettings():
            yield MemoryStore(clock=clock, new_epoch=new_epoch)
        case SqliteStoreSettings():
            store = SqliteStore(
                state / FILE_NAME,
                low_bytes=settings.low_bytes,
                reserve_bytes=settings.reserve_bytes,
                clock=clock,
                new_epoch=new_epoch,
                make_connection=make_connection,
            )
            async with _open_sqlite(store):
                yield store


@asynccontextmanager
async def _open_sqlite(store: SqliteStore) -> AsyncGenerator[None]:
    await store.open()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_space, store)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # as long as one checkpoint
            await store.close()


async def _watch_space(store: SqliteStore) -> None:
    while True:
        await trio.sleep(SPACE_EVERY_S)
        await store.measure_space()
