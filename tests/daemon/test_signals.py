"""Signals before the event loop, in it, and after it: none of them is lost, and none undoes a clean stop."""

import os
import signal
from collections.abc import Iterator

import pytest
import trio

from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.signals import Signals
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import Settings

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def signals(tmp_path) -> Iterator[Signals]:
    directories = Directories(tmp_path, tmp_path, tmp_path)
    signals = Signals(Settings(), directories, BootJournal(directories.boots_file, limit=3))
    with signals.handled():
        yield signals


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def pending_reloads(signals: Signals) -> int:
    return signals.hangups.statistics().current_buffer_used


def test_a_signal_before_the_loop_is_kept_for_it(signals):
    send(signal.SIGTERM)
    send(signal.SIGHUP)
    send(signal.SIGHUP)
    assert signals.stop.is_set()
    assert pending_reloads(signals) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_loop_wakes_who_waits_for_it(signals, number):
    async def wait() -> None:
        signals.enter_loop()
        send(signal.SIGHUP)
        await signals.hangups.receive()
        assert not signals.stop.is_set()
        send(number)
        await signals.stop.wait()

    trio.run(wait)


def test_a_signal_after_the_loop_changes_nothing(signals):
    async def enter() -> None:
        signals.enter_loop()

    trio.run(enter)
    send(signal.SIGTERM)
    send(signal.SIGHUP)
    assert not signals.stop.is_set()
    assert pending_reloads(signals) == 0


def test_the_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in HANDLED]
    directories = Directories(tmp_path, tmp_path, tmp_path)
    signals = Signals(Settings(), directories, BootJournal(directories.boots_file, limit=3))
    with signals.handled():
        assert [signal.getsignal(number) for number in HANDLED] != before
    assert [signal.getsignal(number) for number in HANDLED] == before
