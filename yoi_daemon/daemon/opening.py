"""The composition root: names the concrete classes. Start order is indentation, stop order its reverse."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.certificates import Certificates
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.daemon_file import DaemonFile
from yoi_daemon.daemon.host import GrantedWorkers
from yoi_daemon.daemon.statedir import remember_epoch
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import Settings
from yoi_daemon.plugins.boots import NotJournaled
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.opening import open_plugins
from yoi_daemon.registry.opening import open_registry
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles
from yoi_daemon.store.interface import Store
from yoi_daemon.store.opening import open_store
from yoi_daemon.store.tables import IDEMPOTENCY_KEY, IdempotencyKeyRow
from yoi_daemon.trusted_files import Trust, trust_for


@asynccontextmanager
async def open_daemon(
    directories: Directories,
    settings: Settings,
    tokens: Tokens,
    environ: Mapping[str, str],
    *,
    certificates: Certificates | None = None,
    trust: Trust | None = None,
    redaction: Redaction | None = None,
    boots: BootJournal | None = None,
    safe: str | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Daemon]:
    """Opens everything but the listeners. Providers outlive their users: the store is opened first.

    A reload reads overrides from `environ` and files as `trust` allows. `safe` is the reason to load no plugin.
    Raises `ConfigurationError`, `NotAllowed`, `StorageFailed`.
    """
    ids = IdSource(wall_clock)
    trust = trust_for(directories) if trust is None else trust
    loader = Loader(directories, trust, redaction or Redaction(), boots)
    profiles = make_profiles(settings.profiles)
    async with (
        _open_store_and_log(directories, settings, wall_clock) as (store, event_log),
        open_embedded_runtime(
            event_log, ids, profiles, settings.runtime, store=store, wall_clock=wall_clock
        ) as embedded,
        open_registry(embedded, settings.runtimes, event_log, wall_clock=wall_clock) as registry,
        open_plugins(
            loader,
            settings,
            store,
            event_log,
            ids,
            partial(GrantedWorkers, registry),
            boots or NotJournaled(),
            safe=safe,
            wall_clock=wall_clock,
        ) as plugins,
    ):
        daemon = Daemon(
            directories=directories,
            settings=settings,
            tokens=tokens,
            certificates=certificates or {},
            ids=ids,
            store=store,
            kept_keys=await _kept_keys(store),
            event_log=event_log,
            registry=registry,
            plugins=plugins,
            embedded=embedded,
            environ=environ,
            trust=trust,
            boots=boots,
            wall_clock=wall_clock,
            daemon_file=DaemonFile(directories),
        )
        daemon.note_safe_mode()
        yield daemon


async def _kept_keys(store: Store) -> Sequence[IdempotencyKeyRow]:
    return sorted(await store.rows(IDEMPOTENCY_KEY, owner=""), key=lambda row: row.number)


@asynccontextmanager
async def _open_store_and_log(
    directories: Directories, settings: Settings, wall_clock: Callable[[], float]
) -> AsyncGenerator[tuple[Store, EventLog]]:
    async with open_store(settings.store, directories.state) as store:
        earlier_epochs = (*store.earlier_epochs, *remember_epoch(directories, store.epoch))
        async with open_event_log(
            settings.observe, store, earlier_epochs=earlier_epochs, wall_clock=wall_clock
        ) as event_log:
            yield store, event_log
