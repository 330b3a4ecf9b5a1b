from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.runtime.seen import Seen
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.runtime.embedded import EmbeddedRuntime, open_embedded_runtime
from yoi_daemon.runtime.engines.interface import Engine
from yoi_daemon.runtime.profiles import Profiles, make_profiles

OpenRuntime = Callable[..., AbstractAsyncContextManager[EmbeddedRuntime]]


@pytest.fixture
def open_runtime(event_log, ids, wall_clock) -> OpenRuntime:
    """Opens the embedded runtime with these engines, by profile name, and settings of `[runtime]`."""

    def open_one(
        engines: dict[str, Engine] | None = None, **settings: float
    ) -> AbstractAsyncContextManager[EmbeddedRuntime]:
        profiles = make_profiles({}) if engines is None else Profiles(engines)
        return open_embedded_runtime(
            event_log, ids, profiles, RuntimeSettings(**settings), wall_clock=wall_clock
        )

    return open_one


@pytest.fixture
async def runtime(open_runtime) -> AsyncGenerator[EmbeddedRuntime]:
    async with open_runtime() as runtime:
        yield runtime


@pytest.fixture
def seen(event_log) -> Seen:
    return Seen(event_log)
