import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.clocks import ManualClock
from tests.logwatch import LoggedErrors, watch_errors
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import ObserveSettings, SqliteStoreSettings
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.store.opening import open_store

if os.environ.get("YOI_TEST_WITHOUT_EXTRA"):
    # As where the extra is not installed; what needs it says so with importorskip.
    sys.modules["trio_websocket"] = None  # type: ignore[assignment]

# Few examples and no clock: the suite is to be fast, and the same on every machine.
settings.register_profile("suite", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")

# The modes of what tests write decide whether it is taken.
os.umask(0o022)

OpenLog = Callable[..., AbstractAsyncContextManager[EventLog]]
EPOCH = "00112233aabbccdd"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the proofs in full, not a sample of them")
    parser.addoption(
        "--replay", metavar="PLAN", help="one simulated history, as a failure names it"
    )


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether a proof is to do all of its work; a sample is for every day."""
    return request.config.getoption("--full")


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """An error that is logged fails the test, unless it takes it with `logged_errors.expect(text)`."""
    with watch_errors() as errors:
        yield errors
    errors.check()


@pytest.fixture
def quiet(logged_errors: LoggedErrors) -> None:
    """Logs nothing: services fail by the hundred in a proof, which looks at their events instead."""
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    # `logged_errors`, which set logging up, resets it.


@pytest.fixture
def wall_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ids(wall_clock: ManualClock) -> IdSource:
    """Ids that are the same in every run."""
    return IdSource(wall_clock, bytes)


@pytest.fixture
def open_log(wall_clock: ManualClock) -> OpenLog:
    """Opens a log of a known epoch; keywords are settings of `[observe]`."""

    def open_one(
        earlier_epochs: Collection[str] = (),
        clock: Callable[[], float] | None = None,
        **settings: float,
    ) -> AbstractAsyncContextManager[EventLog]:
        return open_event_log(
            ObserveSettings(**settings),
            MemoryStore(clock=clock, new_epoch=lambda: EPOCH),
            earlier_epochs=earlier_epochs,
            wall_clock=wall_clock,
        )

    return open_one


@pytest.fixture
def open_sqlite_log(tmp_path: Path, wall_clock: ManualClock) -> OpenLog:
    """The same on a store on the disk; opened again it is the same log."""

    @asynccontextmanager
    async def open_one(
        earlier_epochs: Collection[str] = (),
        clock: Callable[[], float] | None = None,
        **settings: float,
    ) -> AsyncGenerator[EventLog]:
        small = SqliteStoreSettings(low_bytes=1024, reserve_bytes=1024)
        async with (
            open_store(small, tmp_path, clock=clock, new_epoch=lambda: EPOCH) as store,
            open_event_log(
                ObserveSettings(**settings),
                store,
                earlier_epochs=earlier_epochs,
                wall_clock=wall_clock,
            ) as log,
        ):
            yield log

    return open_one


@pytest.fixture
async def event_log(open_log: OpenLog) -> AsyncGenerator[EventLog]:
    async with open_log() as log:
        yield log
