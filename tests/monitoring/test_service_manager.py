"""What a service manager hears, on a real datagram socket and a clock of the test's own."""

import os
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from yoi_daemon.daemon import opening
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import MemoryStoreSettings, Settings
from yoi_daemon.monitoring.service_manager import ServiceManager, open_service_manager
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.systemd import Notifier

MEMORY = "store = {kind = 'memory'}\n[daemon]\n"


class Ear:
    """The manager's end."""

    def __init__(self, listening: socket.socket) -> None:
        self._name = f"yoi-ear-{os.getpid()}-{os.urandom(4).hex()}"
        listening.bind("\0" + self._name)
        listening.setblocking(False)
        self._listening = listening

    def notifier(self) -> Notifier:
        return Notifier({"NOTIFY_SOCKET": "@" + self._name})

    def heard(self) -> list[list[str]]:
        """Every message since the last look, as its assignments."""
        messages: list[list[str]] = []
        while True:
            try:
                messages.append(self._listening.recv(65_536).decode().split("\n"))
            except BlockingIOError:
                return messages


@pytest.fixture
def ear() -> Iterator[Ear]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        yield Ear(listening)


class HangingStore(MemoryStore):
    """Commits nothing until `goes_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = trio.Event()
        self.goes_on.set()

    async def commit(self, batch):
        await self.goes_on.wait()
        await super().commit(batch)


@pytest.fixture
async def store() -> HangingStore:
    return HangingStore()


@pytest.fixture
async def starting(tmp_path, store, monkeypatch, wall_clock) -> AsyncGenerator[Daemon]:
    @asynccontextmanager
    async def open_this(*_args):
        yield store

    monkeypatch.setattr(opening, "open_store", open_this)
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.config.mkdir()
    directories.state.mkdir()
    settings = Settings(store=MemoryStoreSettings())
    async with open_daemon(
        directories, settings, Tokens("yoi_t"), environ={}, wall_clock=wall_clock
    ) as daemon:
        yield daemon


@pytest.fixture
async def daemon(starting) -> Daemon:
    await starting.note_ready()
    return starting


@asynccontextmanager
async def managed(
    daemon: Daemon, ear: Ear, watchdog_s: float | None = None
) -> AsyncGenerator[tuple[ServiceManager, trio.MemorySendChannel[None]]]:
    hang_up, hangups = trio.open_memory_channel[None](1)
    with hang_up, hangups:
        async with open_service_manager(daemon, ear.notifier(), watchdog_s, hangups) as manager:
            yield manager, hang_up


def feeds(ear: Ear) -> int:
    return sum("WATCHDOG=1" in message for message in ear.heard())


async def test_readiness_has_a_line_for_people(daemon, ear):
    async with managed(daemon, ear) as (manager, _):
        manager.ready()
    assert ear.heard() == [
        [
            "READY=1",
            "STATUS=Serving; plugins 0/0 running; events 0 waiting; subscribers 0",
        ]
    ]


async def test_a_quick_loop_and_a_store_that_writes_feed_the_watchdog(daemon, ear, autojump_clock):
    async with managed(daemon, ear, watchdog_s=30):
        await trio.sleep(95)
    assert feeds(ear) == 9


async def test_without_a_watchdog_nothing_is_fed(daemon, ear, autojump_clock):
    async with managed(daemon, ear):
        await trio.sleep(1000)
    assert ear.heard() == []


async def test_a_slow_loop_does_not_feed_it(daemon, ear, mock_clock):
    """Each wake-up comes 4 s late: more than a tenth of the interval."""
    async with managed(daemon, ear, watchdog_s=30):
        for _ in range(5):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(14)
        await trio.testing.wait_all_tasks_blocked()
        assert feeds(ear) == 0
        for _ in range(2):  # quick again
            mock_clock.jump(10)
            await trio.testing.wait_all_tasks_blocked()
        assert feeds(ear) == 2


async def test_a_store_that_does_not_commit_does_not_feed_it(daemon, ear, store, autojump_clock):
    async with managed(daemon, ear, watchdog_s=30):
        store.goes_on = trio.Event()
        await trio.sleep(100)
        assert feeds(ear) == 0
        store.goes_on.set()
        await trio.sleep(31)
        assert feeds(ear) >= 1


async def test_draining_is_told_and_asks_for_more_time_while_it_lasts(daemon, ear, autojump_clock):
    async with managed(daemon, ear):
        daemon.begin_draining()
        await trio.sleep(12)
    first, *more = ear.heard()
    assert first == ["STOPPING=1", "STATUS=Stopping", "EXTEND_TIMEOUT_USEC=20000000"]
    assert more == [["EXTEND_TIMEOUT_USEC=20000000"]] * 2


async def settle(ear: Ear, messages: int) -> list[list[str]]:
    heard: list[list[str]] = []
    with trio.fail_after(10):
        while len(heard) < messages:
            await trio.sleep(0.005)
            heard += ear.heard()
    return heard


async def test_a_hangup_reloads_and_says_when(daemon, ear):
    before_usec = time.monotonic_ns() // 1000
    async with managed(daemon, ear) as (_, hang_up):
        hang_up.send_nowait(None)
        reloading, ready = await settle(ear, 2)
    assert reloading[0] == "RELOADING=1"
    name, _, usec = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert 0 <= int(usec) - before_usec < 60e6
    assert ready[0] == "READY=1"
    assert daemon.status().diagnostics == ()


async def test_a_refused_reload_leaves_everything_and_says_so(daemon, ear):
    before = daemon.settings
    bad = "[daemon]\nlog_level = 'debug'\nstop_timeout_s = -1\n[nope]\n"
    daemon.directories.config_file.write_text(bad)
    async with managed(daemon, ear) as (_, hang_up):
        hang_up.send_nowait(None)
        _, ready = await settle(ear, 2)
        assert ready[0] == "READY=1"
        assert ready[1].endswith("; last reload refused")
        assert daemon.settings is before
        (told,) = daemon.status().diagnostics
        assert (told.code, told.severity) == ("reload_refused", "warning")
        assert "daemon.stop_timeout_s" in told.message
        assert "nope" in told.message
        assert str(daemon.directories.config) not in told.message

        daemon.directories.config_file.write_text("[daemon]\nlog_level = 'error'\n")
        hang_up.send_nowait(None)
        await settle(ear, 2)
    assert daemon.status().diagnostics == ()
    assert daemon.settings.daemon.log_level == "error"
    assert daemon.settings.daemon.stop_timeout_s == before.daemon.stop_timeout_s


async def test_the_level_of_the_log_needs_no_restart_and_the_rest_of_its_section_does(daemon):
    daemon.directories.config_file.write_text(MEMORY + "log_level = 'warning'\n")
    assert (await reload(daemon)).needs_restart == ()
    daemon.directories.config_file.write_text(MEMORY + "stop_timeout_s = 11\n")
    assert (await reload(daemon)).needs_restart == ("daemon",)


async def test_a_hangup_while_stopping_does_nothing(daemon, ear):
    async with managed(daemon, ear) as (_, hang_up):
        daemon.begin_draining()
        await trio.testing.wait_all_tasks_blocked()
        ear.heard()
        hang_up.send_nowait(None)
        await trio.testing.wait_all_tasks_blocked()
        assert ear.heard() == []


async def test_a_hangup_while_it_starts_waits_until_it_serves(starting, ear):
    """`READY=1` ends a reload: told now it would say that the daemon serves."""
    async with managed(starting, ear) as (_, hang_up):
        hang_up.send_nowait(None)
        await trio.testing.wait_all_tasks_blocked()
        assert ear.heard() == []
        await starting.note_ready()
        reloading, ready = await settle(ear, 2)
    assert (reloading[0], ready[0]) == ("RELOADING=1", "READY=1")


async def test_a_hangup_after_a_refused_reload_is_taken_too(daemon, ear):
    async with managed(daemon, ear) as (_, hang_up):
        daemon.directories.config_file.write_text("[nope]\n")
        for _ in range(2):
            hang_up.send_nowait(None)
            _, ready = await settle(ear, 2)
            assert ready[1].endswith("; last reload refused")
